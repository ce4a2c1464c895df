package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/faults"
)

// faultFlags are shared by the commands that measure faults.
type faultFlags struct {
	databaseFlags
	Runs   int `default:"10" placeholder:"N" help:"Runs of each fault (default ${default})."`
	Buyers int `default:"${buyers}" placeholder:"N" help:"Buyers. Each waits for an answer before the next order (default ${default})."`
	Rate   int `default:"${rate}" placeholder:"N" help:"Orders per second of all buyers together; fewer while they wait for answers (default ${default})."`
	outFlag
}

type takeoverCmd struct {
	faultFlags `kong:"embed,set='buyers=64',set='rate=2000',set='file=takeover.json'"`
	apiFlag
	Faults  []string      `default:"${sellerFaults}" placeholder:"NAME" help:"Faults of the seller (default ${default}). killed: its process is killed, and started again later. stopped: its process is stopped, and resumed later. parted: the network between the seller and the other replica carries nothing."`
	Lasts   time.Duration `default:"0" placeholder:"D" help:"How long a fault lasts. 0 is 2s for killed, three lock TTLs for stopped and 5s for parted."`
	LockTTL time.Duration `name:"lock-ttl" default:"5s" placeholder:"D" help:"How long a lock outlives a replica that died (default ${default})."`
}

// Help is shown by --help.
func (*takeoverCmd) Help() string {
	return `Each run makes one of three replicas the seller of a SKU, sends orders to the other two, and injects the fault. It measures the longest time without a sale, from the fault until all replicas sell again, and compares every answer with its row in the database. With the fault parted, there are two replicas, buyers order at both, and the figure is the longest wait of a buyer.

The exit status is 1 if an answer was wrong, or if an order was lost, duplicated or oversold. It does not depend on the times: the table says whether they meet the goals.`
}

// Run makes all runs of each fault.
func (c *takeoverCmd) Run(ctx context.Context, s streams) error {
	if err := cmp.Or(c.checkFaultFlags(), atLeast("--lasts", c.Lasts, 0), atLeast("--lock-ttl", c.LockTTL, time.Second)); err != nil {
		return err
	}
	f := faultRuns{
		flags: &c.faultFlags, file: "takeover.json", table: &faults.Seller, names: c.Faults, replicas: 3, api: &c.apiFlag, lasts: c.Lasts, lockTTL: c.LockTTL,
		command: fmt.Sprintf("bin/loadtest takeover --faults %s --runs %d --buyers %d --rate %d --lasts %s --lock-ttl %s",
			strings.Join(c.Faults, ","), c.Runs, c.Buyers, c.Rate, c.Lasts, c.LockTTL),
		servers: sandbox.Config{Database: c.Database},
	}
	return f.run(ctx, s)
}

type failoverCmd struct {
	faultFlags `kong:"embed,set='buyers=16',set='rate=50',set='file=failover.json'"`
	replicaFlags
	Faults []string `default:"${databaseFaults}" placeholder:"NAME" help:"Faults of the database (default ${default}). kill: the server that the replicas write to is killed. switch: another server takes over its role, as planned. cut: it is cut off from the network; needs root. majority: the other servers are stopped for 10s, so that there is no majority."`
}

// Help is shown by --help.
func (*failoverCmd) Help() string {
	return `The database is a private cluster of three servers: MySQL with Group Replication, or MariaDB with Galera. Galera has no primary: there, switch shuts the server down. In each run buyers order at all replicas and pay. The run injects the fault and waits until the cluster is complete again. It measures the time until a server accepts writes and until orders are accepted, and compares every answer with its row in the database.

The exit status is 1 if an answer was wrong, or if an order or a payment was lost. It does not depend on the times: the table says whether they meet the goals.`
}

// Run makes all runs of each fault.
func (c *failoverCmd) Run(ctx context.Context, s streams) error {
	if err := cmp.Or(c.checkFaultFlags(), between("--replicas", c.Replicas, 1, maxReplicas)); err != nil {
		return err
	}
	f := faultRuns{
		flags: &c.faultFlags, file: "failover.json", table: &faults.Database, names: c.Faults, replicas: c.Replicas, api: &c.apiFlag,
		command: fmt.Sprintf("bin/loadtest failover --faults %s --runs %d --replicas %d --buyers %d --rate %d", strings.Join(c.Faults, ","), c.Runs, c.Replicas, c.Buyers, c.Rate),
		servers: sandbox.Config{Database: c.Database, MySQLNodes: 3},
	}
	return f.run(ctx, s)
}

const (
	maxFaultRuns = 1000
	maxBuyers    = 1024
)

func (f *faultFlags) checkFaultFlags() error {
	return cmp.Or(between("--runs", f.Runs, 1, maxFaultRuns), between("--buyers", f.Buyers, 1, maxBuyers), atLeast("--rate", f.Rate, 1))
}

// faultRuns are all runs of one command.
type faultRuns struct {
	flags          *faultFlags
	api            *apiFlag
	table          *faults.Table
	names          []string // of the faults
	file, command  string
	replicas       int
	lasts, lockTTL time.Duration // 0: the fault's own, the service's default
	servers        sandbox.Config
}

func (f *faultRuns) run(ctx context.Context, s streams) error {
	list, err := f.table.Find(f.names)
	if err != nil {
		return fmt.Errorf("--faults: %w", err)
	}
	for _, fault := range list {
		if fault.Network == sandbox.Namespaces && os.Geteuid() != 0 {
			return fmt.Errorf("--faults: %s needs root to create networks; run as root, or leave it out", fault.Name)
		}
		f.servers.Network = cmp.Or(fault.Network, f.servers.Network)
	}
	if err := cmp.Or(f.api.find(), f.flags.create()); err != nil {
		return err
	}
	servers, err := startServers(ctx, s, f.servers)
	if err != nil {
		return err
	}
	defer servers.stop()
	figures := faults.Figures{
		Command: f.command + " --database " + string(servers.stack.MySQL.Product), Date: today(), Machine: machine(),
		Database: servers.version, Product: servers.stack.MySQL.Product, Table: f.table,
	}
	// Faults that need relays have their own replicas; all others share theirs.
	for _, relays := range []bool{false, true} {
		group := slices.DeleteFunc(slices.Clone(list), func(fault faults.Fault) bool { return (fault.Network == sandbox.Relays) != relays })
		if len(group) == 0 {
			continue
		}
		if err := f.play(ctx, s, servers, group, &figures); err != nil {
			return err
		}
	}
	if err := f.flags.save(f.file, figures); err != nil {
		return err
	}
	if err := figures.Write(s.out); err != nil {
		return err
	}
	if !figures.OK {
		fmt.Fprintln(s.out, "\nNot proven: see the runs that are not exact.")
		return errNotProven
	}
	return nil
}

// play makes all runs of some faults, on one database and one fleet. The replicas take
// turns as the seller.
func (f *faultRuns) play(ctx context.Context, s streams, servers *servers, list []faults.Fault, figures *faults.Figures) (err error) {
	seed := uint64(rand.Uint32())
	name := databaseName(seed, list[0].Name)
	dsn, drop, err := servers.database(ctx, name)
	if err != nil {
		return err
	}
	defer drop()
	fleet, err := f.startReplicas(ctx, servers, dsn, list[0].Network == sandbox.Relays)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	for _, fault := range list {
		for run := range f.flags.Runs {
			seed += 1 << 32
			result, err := faults.Run(ctx, faults.Config{
				Fault: fault, SKU: fmt.Sprintf("%s-%d", fault.Name, run+1), Fleet: fleet, Seller: run % len(fleet.Replicas),
				DSN: dsn, Name: name, Cluster: servers.stack.Cluster, Network: servers.stack.Network, Rate: f.flags.Rate, Buyers: f.flags.Buyers,
				Lasts: cmp.Or(f.lasts, fault.Lasts(f.lockTTL)), Seed: seed,
			})
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", fault.Name, run+1, errors.Join(err, fleet.Dead()))
			}
			figures.Add(result)
			fmt.Fprintf(s.out, "%2d/%d %s\n", run+1, f.flags.Runs, &result)
		}
	}
	return nil
}

// startReplicas starts the replicas, or two that reach each other through relays.
func (f *faultRuns) startReplicas(ctx context.Context, servers *servers, dsn string, relayed bool) (*sandbox.Fleet, error) {
	cfg, err := servers.replica(ctx, strategy.Default, f.api.API, dsn)
	if err != nil {
		return nil, err
	}
	if f.lockTTL > 0 {
		cfg.Args = append(cfg.Args, "--lock-ttl="+f.lockTTL.String())
	}
	if !relayed {
		return startFleet(ctx, cfg, f.replicas)
	}
	return servers.stack.StartFleet(ctx, 2, func(int) sandbox.ReplicaConfig { return cfg })
}
