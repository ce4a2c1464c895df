package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/failover"
	"flashsale/loadtest/handover"
)

type failoverCmd struct {
	databaseFlags
	replicaFlags
	Faults []string `default:"${failovers}" placeholder:"NAME" help:"What befalls the database (default ${default}): the server that the replicas write to is killed, or its role is switched on purpose, or it is cut off from the others (only as root), or the others are stopped for 10 s so that there is no majority."`
	Runs   int      `default:"10" placeholder:"N" help:"Runs of each fault (default ${default})."`
	Buyers int      `default:"16" placeholder:"N" help:"Buyers, each of whom waits for an answer before the next order (default ${default})."`
	Rate   int      `default:"50" placeholder:"N" help:"Orders a second of all buyers together, while they need not wait (default ${default})."`
	Out    string   `default:"out" placeholder:"DIR" help:"Folder for failover.json (default ${default})."`
}

// Help is shown by --help.
func (*failoverCmd) Help() string {
	return `The database is a private cluster of three servers: MySQL with Group Replication, or MariaDB with Galera, which has no primary to switch and whose server is shut down instead. Each run lets buyers order at all replicas and pay, brings the fault, and waits until the cluster is whole again. It measures the time until a server takes writes, and until orders are taken, and joins every answer with its row in the database.

The exit status is 1 if a wrong answer was given, or an order or a payment was lost. It does not depend on the times: whether they meet the product's goal is printed.`
}

const (
	failoverFile = "failover.json"
	maxFailovers = 1000
)

// Run plays the runs of each fault, on one cluster and the same replicas.
func (c *failoverCmd) Run(ctx context.Context, s streams) (err error) {
	list, err := c.parse()
	if err != nil {
		return err
	}
	// What takes minutes to measure must have a place to go.
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "Starting the servers ...")
	servers, err := startServers(ctx, sandbox.Config{
		Database: c.Database, MySQLNodes: 3, OwnHosts: slices.ContainsFunc(list, func(f failover.Fault) bool { return f.OwnHosts }),
	}, "", nil)
	if err != nil {
		return err
	}
	defer servers.stop()
	nameDatabase(s, servers.version)
	figures := failover.Figures{
		Command: fmt.Sprintf("bin/loadtest failover --database %s --faults %s --runs %d --replicas %d --buyers %d --rate %d",
			servers.stack.MySQL.Product, strings.Join(c.Faults, ","), c.Runs, c.Replicas, c.Buyers, c.Rate),
		Date: time.Now().UTC().Format(time.DateOnly), Machine: handover.Machine(), Database: servers.version, Product: servers.stack.MySQL.Product,
	}
	if err := c.play(ctx, s, servers, list, &figures); err != nil {
		return err
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Out, failoverFile), append(text, '\n'), 0o644); err != nil {
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

func (c *failoverCmd) parse() ([]failover.Fault, error) {
	switch {
	case c.Runs < 1 || c.Runs > maxFailovers:
		return nil, fmt.Errorf("--runs must be from 1 to %d, not %d", maxFailovers, c.Runs)
	case c.Buyers < 1 || c.Buyers > maxBuyers:
		return nil, fmt.Errorf("--buyers must be from 1 to %d, not %d", maxBuyers, c.Buyers)
	case c.Rate < 1:
		return nil, fmt.Errorf("--rate must be at least 1, not %d", c.Rate)
	}
	list, err := failover.FindFaults(c.Faults)
	if err != nil {
		return nil, fmt.Errorf("--faults: %w", err)
	}
	for _, fault := range list {
		if fault.OwnHosts && os.Geteuid() != 0 {
			return nil, fmt.Errorf("--faults: %s needs networks that only root can make; name the others, or run as root", fault.Name)
		}
	}
	return list, c.check()
}

func (c *failoverCmd) play(ctx context.Context, s streams, servers *servers, list []failover.Fault, figures *failover.Figures) (err error) {
	seed := uint64(rand.Uint32())
	name := databaseName(seed, "failover")
	dsn, drop, err := servers.database(ctx, name)
	if err != nil {
		return err
	}
	defer drop()
	row, err := strategy.Find(strategy.Default)
	if err != nil {
		return err
	}
	at, err := servers.lockServer(ctx, row)
	if err != nil {
		return err
	}
	fleet, err := startFleet(ctx, sandbox.ReplicaConfig{Program: c.API, MySQLDSN: dsn, Args: append(at.Flags(), "--log-level=warn")}, c.Replicas)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	for _, fault := range list {
		for run := range c.Runs {
			seed++
			result, err := failover.Run(ctx, failover.Config{
				Fault: fault, SKU: fmt.Sprintf("%s-%d", fault.Name, run+1), Cluster: servers.stack.Cluster, Name: name, Replicas: fleet.Replicas,
				AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret, Rate: c.Rate, Buyers: c.Buyers, Seed: seed << 24,
			})
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", fault.Name, run+1, errors.Join(err, fleet.Dead()))
			}
			figures.Add(result)
			fmt.Fprintf(s.out, "%2d/%d %s\n", run+1, c.Runs, &result)
		}
	}
	return nil
}
