package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/handover"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/takeover"
)

type takeoverCmd struct {
	databaseFlags
	API     string        `name:"api" default:"bin/api" placeholder:"FILE" help:"The service's program (default ${default})."`
	Faults  []string      `default:"${faults}" placeholder:"NAME" help:"What befalls the seller (default ${default}): its process is killed, or stopped and resumed, or parted from another replica by a network that carries nothing."`
	Runs    int           `default:"10" placeholder:"N" help:"Runs of each fault (default ${default})."`
	Buyers  int           `default:"64" placeholder:"N" help:"Buyers at the other replicas, each of whom waits for an answer before the next order (default ${default})."`
	Rate    int           `default:"2000" placeholder:"N" help:"Orders a second of all buyers together, while they need not wait (default ${default})."`
	Lasts   time.Duration `default:"0" placeholder:"D" help:"How long a fault lasts. 0 is 2s for killed, three lock TTLs for stopped, 5s for parted."`
	LockTTL time.Duration `name:"lock-ttl" default:"5s" placeholder:"D" help:"How long a lock outlives a replica that died (default ${default})."`
	Out     string        `default:"out" placeholder:"DIR" help:"Folder for takeover.json (default ${default})."`
}

// Help is shown by --help.
func (*takeoverCmd) Help() string {
	return `Each run makes one of three replicas the seller of a SKU, lets buyers order at the others, and brings the fault. It measures the longest time without a sale, from the fault until all is healed, and joins every answer with its row in the database. Where the seller is parted from another replica, there are two replicas with buyers at both, and the longest wait of a buyer is measured.

The exit status is 1 if a buyer got a wrong answer, or an order was lost, made twice or oversold. It does not depend on the times: whether they meet the product's goal is printed.`
}

const (
	takeoverFile     = "takeover.json"
	takeoverReplicas = 3
	maxTakeovers     = 1000
	maxBuyers        = 1024
)

// Run plays the runs of each fault on replicas and a database of their own.
func (c *takeoverCmd) Run(ctx context.Context, s streams) error {
	list, err := c.parse()
	if err != nil {
		return err
	}
	// What takes minutes to measure must have a place to go.
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "Starting the servers ...")
	servers, err := startServers(ctx, sandbox.Config{Database: c.Database}, "", nil)
	if err != nil {
		return err
	}
	defer servers.stop()
	nameDatabase(s, servers.version)
	figures := takeover.Figures{
		Command: fmt.Sprintf("bin/loadtest takeover --faults %s --runs %d --buyers %d --rate %d --lasts %s --lock-ttl %s",
			strings.Join(c.Faults, ","), c.Runs, c.Buyers, c.Rate, c.Lasts, c.LockTTL),
		Date: time.Now().UTC().Format(time.DateOnly), Machine: handover.Machine(),
	}
	for _, fault := range list {
		if err := c.play(ctx, s, servers, fault, &figures); err != nil {
			return fmt.Errorf("%s: %w", fault.Name, err)
		}
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Out, takeoverFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := figures.Table(s.out); err != nil {
		return err
	}
	if !figures.OK {
		fmt.Fprintln(s.out, "\nNot proven: see the runs that are not exact.")
		return errNotProven
	}
	return nil
}

func (c *takeoverCmd) parse() ([]takeover.Fault, error) {
	switch {
	case c.Runs < 1 || c.Runs > maxTakeovers:
		return nil, fmt.Errorf("--runs must be from 1 to %d, not %d", maxTakeovers, c.Runs)
	case c.Buyers < 1 || c.Buyers > maxBuyers:
		return nil, fmt.Errorf("--buyers must be from 1 to %d, not %d", maxBuyers, c.Buyers)
	case c.Rate < 1:
		return nil, fmt.Errorf("--rate must be at least 1, not %d", c.Rate)
	case c.Lasts < 0:
		return nil, fmt.Errorf("--lasts must not be negative: %s", c.Lasts)
	case c.LockTTL <= 0:
		return nil, fmt.Errorf("--lock-ttl must be more than 0, not %s", c.LockTTL)
	}
	list, err := takeover.FindFaults(c.Faults)
	if err != nil {
		return nil, fmt.Errorf("--faults: %w", err)
	}
	// The same program that other commands start replicas of.
	replicas := replicaFlags{API: c.API, Replicas: takeoverReplicas}
	err = replicas.check()
	c.API = replicas.API
	return list, err
}

// play makes all runs of one fault. The replicas take turns as the seller.
func (c *takeoverCmd) play(ctx context.Context, s streams, servers *servers, fault takeover.Fault, figures *takeover.Figures) (err error) {
	seed := uint64(rand.Uint32())
	dsn, drop, err := servers.database(ctx, databaseName(seed, "takeover_"+fault.Name))
	if err != nil {
		return err
	}
	defer drop()
	fleet, relays, err := c.start(ctx, servers, fault, dsn)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, fleet.Stop())
		for _, relay := range relays {
			relay.Close()
		}
	}()
	db, err := proof.Open(dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	lasts := c.Lasts
	if lasts == 0 {
		lasts = fault.Lasts(c.LockTTL)
	}
	for run := range c.Runs {
		result, err := takeover.Run(ctx, takeover.Config{
			Fault: fault, SKU: fmt.Sprintf("%s-%d", fault.Name, run+1), Replicas: fleet.Replicas, Seller: run % len(fleet.Replicas), Relays: relays,
			AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret, Database: db, Rate: c.Rate, Buyers: c.Buyers, Lasts: lasts,
			Seed: seed + uint64(run)<<32,
		})
		if err != nil {
			return fmt.Errorf("run %d: %w", run+1, errors.Join(err, fleet.Dead()))
		}
		figures.Add(result)
		fmt.Fprintf(s.out, "%2d/%d %s\n", run+1, c.Runs, &result)
	}
	return nil
}

// start starts the replicas, and relays between them where the fault needs them.
func (c *takeoverCmd) start(ctx context.Context, servers *servers, fault takeover.Fault, dsn string) (f *sandbox.Fleet, relays []*takeover.Relay, err error) {
	defer func() {
		if err != nil {
			for _, relay := range relays {
				relay.Close()
			}
		}
	}()
	row, err := strategy.Find(strategy.Default)
	if err != nil {
		return nil, nil, err
	}
	at, err := servers.lockServer(ctx, row)
	if err != nil {
		return nil, nil, err
	}
	n := takeoverReplicas
	if fault.Relayed {
		n = 2
	}
	cfgs := make([]sandbox.ReplicaConfig, n)
	ports := make([]*sandbox.Port, n)
	defer runtime.KeepAlive(ports) // reserved until the replicas have bound them
	for i := range cfgs {
		cfgs[i] = sandbox.ReplicaConfig{
			Program: c.API, MySQLDSN: dsn, Args: append(at.Flags(), "--log-level=warn", "--lock-ttl="+c.LockTTL.String()),
		}
		if !fault.Relayed {
			continue
		}
		if ports[i], err = sandbox.ReservePort(); err != nil {
			return nil, relays, err
		}
		relay, err := takeover.NewRelay(ports[i].Addr)
		if err != nil {
			return nil, relays, err
		}
		relays = append(relays, relay)
		cfgs[i].Args = append(cfgs[i].Args, "--forward-addr="+ports[i].Addr, "--forward-advertise="+relay.Addr)
	}
	f, err = sandbox.StartFleet(ctx, n, func(i int) sandbox.ReplicaConfig { return cfgs[i] })
	return f, relays, err
}
