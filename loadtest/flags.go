package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/bench"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// maxReplicas is how many replicas the private servers have connections for.
const maxReplicas = 12

func between(flag string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s must be from %d to %d, not %d", flag, least, most, n)
	}
	return nil
}

func atLeast[T cmp.Ordered](flag string, n, least T) error {
	if n < least {
		return fmt.Errorf("%s must be at least %v, not %v", flag, least, n)
	}
	return nil
}

type seedFlag struct {
	Seed uint64 `default:"0" placeholder:"N" help:"Seed of all random choices; 0 picks a seed and prints it."`
}

// pick sets the seed unless it is set. 32 bits: every reader of the JSON can hold it.
func (f *seedFlag) pick() {
	if f.Seed == 0 {
		f.Seed = 1 + uint64(rand.Uint32())
	}
}

// outFlag is the folder for results. A command that embeds it sets ${file}.
type outFlag struct {
	Out string `default:"out" placeholder:"DIR" help:"Folder for ${file} (default ${default})."`
}

// create makes the folder. A command that measures for minutes calls it first.
func (f *outFlag) create() error { return os.MkdirAll(f.Out, 0o755) }

func (f *outFlag) save(file string, v any) error {
	return report.SaveJSON(filepath.Join(f.Out, file), v, 0o644)
}

func today() string { return time.Now().UTC().Format(time.DateOnly) }

func machine() string {
	m := bench.ThisMachine()
	return fmt.Sprintf("%d cores of %s, all servers on the loopback", m.Cores, cmp.Or(m.CPU, "unknown CPU"))
}

func readJSON(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

type loadFlags struct {
	SKUs           int           `name:"skus" default:"1" placeholder:"N" help:"SKUs on sale; buyers are spread over them (default ${default})."`
	Stock          int64         `default:"0" placeholder:"N" help:"Units on sale over all SKUs. 0 is as many as the strategy can certainly sell in that time."`
	MaxQuantity    int           `default:"1" placeholder:"N" help:"Largest quantity of an order; quantities are spread from 1 to this (default ${default})."`
	Rate           int           `default:"2000" placeholder:"N" help:"Requests per second, sent whether or not the service keeps up (default ${default})."`
	Duration       time.Duration `default:"5s" placeholder:"D" help:"How long requests are sent (default ${default})."`
	UntilContended bool          `help:"If too few bursts were contended for a verdict, repeat the challenge with twice as many buyers, up to ${max_buyers}."`
	Threshold      []string      `sep:"none" placeholder:"METRIC<VALUE" help:"Exit with status 99 unless the figure of each run holds, such as 'p99<50ms' or 'errors<0.1%'; repeatable. METRIC is p50, p95, p99, p99.9 or max, also accepted.p99, refused.p99, or of one call such as pay.p99; errors (all that failed, with ambiguous ones), ambiguous (a number, or % of all requests), rate or accepted_per_second. Operators are <, <=, > and >=."`
	Compare        string        `placeholder:"FILE" help:"An earlier proof.json: show how the figures differ, and which are worse by more than noise. The exit status does not depend on it."`
	JUnit          string        `name:"junit" placeholder:"FILE" help:"Write the verdicts and thresholds, or the error that ended the run, as JUnit's XML, for CI."`
	seedFlag
	outFlag `embed:"" set:"file=proof.json and report.html"`

	thresholds []proof.Threshold
	before     *proof.Proof // of --compare
	published  *proof.Proof // nil until publish has saved it
}

// plan returns the plan; its targets may still be unknown.
func (f *loadFlags) plan(targets ...string) (attack.Plan, error) {
	err := cmp.Or(between("--skus", f.SKUs, 1, maxSKUs), atLeast("--stock", f.Stock, 0))
	if err == nil && f.Stock > 0 && f.Stock < int64(f.SKUs) {
		err = fmt.Errorf("--stock %d is less than one unit for each of --skus %d", f.Stock, f.SKUs)
	}
	if err != nil {
		return attack.Plan{}, err
	}
	for _, text := range f.Threshold {
		threshold, err := proof.ParseThreshold(text)
		if err != nil {
			return attack.Plan{}, err
		}
		f.thresholds = append(f.thresholds, threshold)
	}
	// Read before the attack, which may replace the file.
	if f.Compare != "" {
		f.before = &proof.Proof{}
		if err := readJSON(f.Compare, f.before); err != nil {
			return attack.Plan{}, fmt.Errorf("--compare: %w", err)
		}
		if len(f.before.Runs) == 0 {
			return attack.Plan{}, fmt.Errorf("--compare: %s has no runs; it must be a proof.json", f.Compare)
		}
	}
	f.pick()
	plan := attack.Plan{
		Targets: targets, MaxQuantity: f.MaxQuantity, Rate: f.Rate, Duration: f.Duration, Seed: f.Seed,
	}
	for i := range f.SKUs {
		plan.SKUs = append(plan.SKUs, fmt.Sprintf("sale-%x-%d", f.Seed, i+1))
	}
	return plan, plan.Check()
}

// maxSKUs bounds the calls that create SKUs before an attack.
const maxSKUs = 1000

// units returns the stock of a run: --stock, or what the strategy can surely sell, but
// at most half of what buyers ask for. With fewer buyers than units there is no race.
func (f *loadFlags) units(s strategy.Strategy, plan *attack.Plan) int64 {
	if f.Stock > 0 {
		return f.Stock
	}
	sells := int64(float64(s.UnitsPerSecond) * plan.Duration.Seconds())
	return max(min(sells, int64(plan.Orders()/2)), int64(f.SKUs))
}

// share returns the part of the units that SKU number i gets.
func share(units int64, skus, i int) int64 {
	n := units / int64(skus)
	if int64(i) < units%int64(skus) {
		n++
	}
	return n
}

// begin removes the result of an earlier run: after a failure, CI would take it for the
// result of this one. A file that --compare names stays, as it is the user's reference.
func (f *loadFlags) begin() error {
	for _, file := range []string{filepath.Join(f.Out, report.ProofFile), filepath.Join(f.Out, report.PageFile), f.JUnit} {
		if file == "" || f.Compare != "" && sameFile(file, f.Compare) {
			continue
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the result of an earlier run: %w", err)
		}
	}
	return nil
}

// sameFile reports whether both paths are of one file that exists.
func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

// end writes an error that publish has not shown into the file of --junit. It returns err,
// with its own.
func (f *loadFlags) end(command string, err error) error {
	if f.JUnit == "" || err == nil || judged(err) {
		return err
	}
	return errors.Join(err, report.SaveJUnitError(f.JUnit, command, f.published, err))
}

// publish settles, saves and prints the proof. It returns errNotProven if the proof
// failed, else errThreshold if a threshold did.
func (f *loadFlags) publish(s streams, p *proof.Proof) error {
	p.Settle()
	failed := false
	for i := range p.Runs {
		for _, t := range f.thresholds {
			checked := t.Check(&p.Runs[i])
			failed = failed || !checked.OK
			p.Runs[i].Thresholds = append(p.Runs[i].Thresholds, checked)
		}
	}
	if err := report.Save(f.Out, p); err != nil {
		return err
	}
	f.published = p
	if f.JUnit != "" {
		if err := report.SaveJUnit(f.JUnit, p); err != nil {
			return err
		}
	}
	if err := report.Table(s.out, p); err != nil {
		return err
	}
	if f.before != nil {
		if err := report.Comparison(s.out, f.Compare, f.before, p); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(s.out, "Written: %[1]s/%[2]s and %[1]s/%[3]s (seed %[4]d)\n", f.Out, report.ProofFile, report.PageFile, p.Seed); err != nil {
		return err
	}
	switch {
	case !p.Proven:
		return errNotProven
	case failed:
		return errThreshold
	}
	return nil
}

// judged reports whether publish has written and printed a proof before err. err may join
// errors of what followed.
func judged(err error) bool { return errors.Is(err, errNotProven) || errors.Is(err, errThreshold) }

type databaseFlags struct {
	Database sandbox.Product `default:"" enum:",mysql,mariadb" placeholder:"mysql|mariadb" help:"Product of the private database. By default MySQL if it is installed (scripts/setup --mysql), else MariaDB."`
}

type clusterFlags struct {
	MySQLNodes int `name:"mysql-nodes" default:"1" enum:"1,3" placeholder:"1|3" help:"Servers of the private database (default ${default}). 3 make a cluster: MySQL with Group Replication and one primary, or MariaDB with Galera. A cluster takes 20 s to start, and 2 GB for MySQL."`
}

// nameDatabase prints the first line of every report: figures and behaviour depend on
// the database.
func nameDatabase(s streams, version string) {
	fmt.Fprintf(s.out, "Database: %s\n\n", version)
}

type apiFlag struct {
	API string `name:"api" default:"bin/api" placeholder:"FILE" help:"The service's program (default ${default})."`
}

// find checks that the program exists. It may be in PATH.
func (f *apiFlag) find() error {
	if info, err := os.Stat(f.API); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return nil
	}
	path, err := exec.LookPath(f.API)
	if err != nil {
		return fmt.Errorf("--api: program %s not found; run `make build`, or name another program", f.API)
	}
	f.API = path
	return nil
}

type replicaFlags struct {
	apiFlag
	Replicas int `default:"3" placeholder:"N" help:"Replicas of the service (default ${default})."`
}

func (f *replicaFlags) check() error {
	return cmp.Or(between("--replicas", f.Replicas, 1, maxReplicas), f.find())
}
