package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// verdictsCmd measures whether the verdicts of attack can be relied on: it attacks
// services whose faults are known, at low and high rates.
type verdictsCmd struct {
	Strategies []string      `default:"none,process,etcd" placeholder:"NAME" help:"Strategies of the services (default ${default})."`
	Runs       int           `default:"50" placeholder:"N" help:"Attacks on each service (default ${default})."`
	MinRate    int           `default:"50" placeholder:"N" help:"Rate of the first attack (default ${default}); each next one is higher by the same factor."`
	MaxRate    int           `default:"5000" placeholder:"N" help:"Rate of the last attack (default ${default})."`
	Duration   time.Duration `default:"1s" placeholder:"D" help:"Duration of each attack (default ${default})."`
	replicaFlags
	databaseFlags
}

var verdicts = []strategy.Verdict{
	strategy.Oversold, strategy.Lost, strategy.Undersold, strategy.Failed, strategy.NotChallenged, strategy.Exact,
}

// Run prints how often each verdict was given. It returns errNotProven if a wrong service
// was called exact, or a right one broken.
func (c *verdictsCmd) Run(ctx context.Context, s streams) error {
	strategies, err := findStrategies(c.Strategies)
	if err = cmp.Or(err, atLeast("--runs", c.Runs, 1), atLeast("--min-rate", c.MinRate, 1), atLeast("--max-rate", c.MaxRate, c.MinRate), c.check()); err != nil {
		return err
	}
	servers, err := startServers(ctx, s, sandbox.Config{Database: c.Database})
	if err != nil {
		return err
	}
	defer servers.stop()
	columns := []string{"strategy", "expected", "runs"}
	for _, v := range verdicts {
		columns = append(columns, string(v))
	}
	var rows [][]string
	wrong := 0
	for _, row := range strategies {
		counts, err := c.count(ctx, s, servers, row)
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		expected := row.Expect(c.Replicas)
		cells := []string{row.Name, string(expected), strconv.Itoa(c.Runs)}
		for _, v := range verdicts {
			cells = append(cells, strconv.Itoa(counts[v]))
		}
		rows = append(rows, cells)
		wrong += c.Runs - counts[expected] - counts[strategy.NotChallenged]
	}
	title := fmt.Sprintf("Verdicts of attacks with %d to %d requests a second on %d replicas", c.MinRate, c.MaxRate, c.Replicas)
	fmt.Fprintln(s.out, report.Grid(title, columns, rows, 1, 0))
	if wrong > 0 {
		fmt.Fprintf(s.out, "%d verdicts were wrong.\n", wrong)
		return errNotProven
	}
	return nil
}

// count attacks the same replicas again and again.
func (c *verdictsCmd) count(ctx context.Context, s streams, servers *servers, row strategy.Strategy) (counts map[strategy.Verdict]int, err error) {
	dsn, drop, err := servers.database(ctx, databaseName(0, row.Name))
	if err != nil {
		return nil, err
	}
	defer drop()
	cfg, err := servers.replica(ctx, row.Name, c.API, dsn)
	if err != nil {
		return nil, err
	}
	fleet, err := startFleet(ctx, cfg, c.Replicas)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	out, remove, err := sandbox.TempFolder()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	counts = map[strategy.Verdict]int{}
	for i := range c.Runs {
		rate := float64(c.MinRate) * math.Pow(float64(c.MaxRate)/float64(c.MinRate), float64(i)/float64(max(1, c.Runs-1)))
		attack := attackCmd{Targets: fleet.URLs(), JWTSecret: fleet.JWTSecret, AdminToken: fleet.AdminToken, MySQLDSN: dsn,
			loadFlags: loadFlags{SKUs: 1, MaxQuantity: 1, Rate: int(math.Round(rate)), Duration: c.Duration, outFlag: outFlag{Out: out}}}
		if err := attack.Run(ctx, streams{io.Discard, io.Discard}); err != nil && !errors.Is(err, errNotProven) {
			return nil, err
		}
		var p proof.Proof
		if err := readJSON(out+"/"+report.ProofFile, &p); err != nil {
			return nil, err
		}
		run := p.Runs[0]
		counts[run.Verdict]++
		fmt.Fprintf(s.err, "%s, %d/s: %s; %d of %d last units sold twice, %d contended\n",
			row.Name, run.Rate, run.Verdict, run.Challenge.SoldTwice, run.Challenge.Bursts, run.Challenge.Contended)
	}
	return counts, nil
}
