package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// maxReplicas is what a sandbox's servers have connections for.
const maxReplicas = 12

// loadFlags say what an attack sends.
type loadFlags struct {
	SKUs        int           `name:"skus" default:"1" placeholder:"N" help:"SKUs on sale; buyers are spread over them (default ${default})."`
	Stock       int64         `default:"0" placeholder:"N" help:"Units on sale, over all SKUs. 0 is what the strategy surely sells in the time, by its registry."`
	MaxQuantity int           `default:"1" placeholder:"N" help:"Largest quantity of an order; quantities are spread from 1 to this (default ${default})."`
	Rate        int           `default:"2000" placeholder:"N" help:"Requests a second, whether the service keeps up or not (default ${default})."`
	Duration    time.Duration `default:"5s" placeholder:"D" help:"How long requests are sent for (default ${default})."`
	Seed        uint64        `default:"0" placeholder:"N" help:"Makes customers, keys and quantities; 0 picks one and reports it."`
	Out         string        `default:"out" placeholder:"DIR" help:"Folder for proof.json and report.html (default ${default})."`
}

// plan makes the plan, for targets that may not be known yet.
func (f *loadFlags) plan(targets ...string) (attack.Plan, error) {
	switch {
	case f.SKUs < 1 || f.SKUs > maxSKUs:
		return attack.Plan{}, fmt.Errorf("--skus must be from 1 to %d, not %d", maxSKUs, f.SKUs)
	case f.Stock < 0:
		return attack.Plan{}, fmt.Errorf("--stock must not be negative: %d", f.Stock)
	case f.Stock > 0 && f.Stock < int64(f.SKUs):
		return attack.Plan{}, fmt.Errorf("--stock %d is less than a unit for each of --skus %d", f.Stock, f.SKUs)
	}
	if f.Seed == 0 {
		// 32 bits: every reader of the JSON can hold it, and so can a person.
		f.Seed = 1 + uint64(rand.Uint32())
	}
	plan := attack.Plan{
		Targets: targets, MaxQuantity: f.MaxQuantity, Rate: f.Rate, Duration: f.Duration, Seed: f.Seed,
	}
	for i := range f.SKUs {
		plan.SKUs = append(plan.SKUs, fmt.Sprintf("sale-%x-%d", f.Seed, i+1))
	}
	return plan, plan.Check()
}

// maxSKUs bounds what is created, one call each, before an attack.
const maxSKUs = 1000

// units is the stock of a run: what was asked for, or what the strategy surely
// sells, but no more than half of what buyers want: with fewer buyers than
// units there is no race to lose.
func (f *loadFlags) units(s strategy.Strategy, plan *attack.Plan) int64 {
	if f.Stock > 0 {
		return f.Stock
	}
	sells := int64(float64(s.UnitsPerSecond) * f.Duration.Seconds())
	return max(min(sells, int64(plan.Requests()/2)), int64(f.SKUs))
}

// share is SKU number i's part of the units.
func share(units int64, skus, i int) int64 {
	n := units / int64(skus)
	if int64(i) < units%int64(skus) {
		n++
	}
	return n
}

// publish saves the settled proof, shows it, and returns errNotProven if it is
// none.
func (f *loadFlags) publish(s streams, p *proof.Proof) error {
	p.Settle()
	if err := report.Save(f.Out, p); err != nil {
		return err
	}
	if err := report.Table(s.out, p); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.out, "Written: %[1]s/%[2]s and %[1]s/%[3]s (seed %[4]d)\n", f.Out, report.ProofFile, report.PageFile, p.Seed); err != nil {
		return err
	}
	if !p.Proven {
		return errNotProven
	}
	return nil
}

// databaseFlags choose the private database server.
type databaseFlags struct {
	Database sandbox.Product `default:"" enum:",mysql,mariadb" placeholder:"mysql|mariadb" help:"The private database server. Without it, MySQL where its program is there (scripts/setup --mysql), MariaDB otherwise."`
}

// clusterFlags say how many servers the private database is.
type clusterFlags struct {
	MySQLNodes int `name:"mysql-nodes" default:"1" enum:"1,3" placeholder:"1|3" help:"Servers of the private database (default ${default}). 3 are a cluster: MySQL with Group Replication and one primary, MariaDB with Galera. It takes 20 s to start, and 2 GB for MySQL."`
}

// nameDatabase is the first line of every report: figures and behaviour differ.
func nameDatabase(s streams, version string) {
	fmt.Fprintf(s.out, "Database: %s\n\n", version)
}

// replicaFlags say what replicas to start.
type replicaFlags struct {
	API      string `name:"api" default:"bin/api" placeholder:"FILE" help:"The service's program (default ${default})."`
	Replicas int    `default:"3" placeholder:"N" help:"Replicas of the service (default ${default})."`
}

func (f *replicaFlags) check() error {
	if f.Replicas < 1 || f.Replicas > maxReplicas {
		return fmt.Errorf("--replicas must be from 1 to %d, not %d", maxReplicas, f.Replicas)
	}
	if info, err := os.Stat(f.API); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return nil
	}
	path, err := exec.LookPath(f.API)
	if err != nil {
		return fmt.Errorf("--api: there is no program %s: run `make build`, or name another", f.API)
	}
	f.API = path
	return nil
}
