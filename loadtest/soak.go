package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/soak"
)

type soakCmd struct {
	replicaFlags
	databaseFlags
	Duration      time.Duration `default:"15m" placeholder:"D" help:"How long to go on (default ${default})."`
	Seed          uint64        `default:"0" placeholder:"N" help:"Makes all choices; 0 picks one and reports it."`
	PaymentWindow time.Duration `default:"2s" placeholder:"D" help:"The replicas' payment window (default ${default})."`
	Actors        int           `default:"6" placeholder:"N" help:"Actors that each have a SKU of their own (default ${default})."`
	Rushes        int           `default:"2" placeholder:"N" help:"SKUs that four actors share (default ${default})."`
	Faults        bool          `default:"true" negatable:"" help:"Kill and stop replicas meanwhile (default)."`
	Out           string        `default:"out" placeholder:"DIR" help:"Folder for soak.json (default ${default})."`
}

const (
	soakFile = "soak.json"
	// maxActors is what connections and two cores are there for.
	maxActors = 100
	// soakLockTTL is the least that etcd grants: a stopped replica outlasts it.
	soakLockTTL = 2 * time.Second
	// soakRateLimit is one that a customer in a hurry meets at times.
	soakRateLimit = "20/1s"
)

// Run soaks private replicas on private servers.
func (c *soakCmd) Run(ctx context.Context, s streams) error {
	if err := c.checkFlags(); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "Starting the servers ...")
	stack, err := sandbox.Start(ctx, sandbox.Config{MySQL: true, Database: c.Database, EtcdNodes: 1})
	if err != nil {
		return err
	}
	defer stack.Stop()
	nameDatabase(s, stack.MySQL.Version)
	dsn, err := stack.MySQL.CreateDatabase(ctx, "soak")
	if err != nil {
		return err
	}
	fleet, err := startFleet(ctx, sandbox.ReplicaConfig{
		Program: c.API, MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(),
		Args: []string{"--lock-ttl=" + soakLockTTL.String(), "--payment-window=" + c.PaymentWindow.String(), "--log-level=warn",
			"--rate-limit-customer=" + soakRateLimit},
	}, c.Replicas)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "%s of random calls, seed %d\n", c.Duration, c.Seed)
	cfg := soak.Config{
		URLs: fleet.URLs(), DSN: dsn, AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret, Window: c.PaymentWindow,
		Duration: c.Duration, Seed: c.Seed, Actors: c.Actors, Rushes: c.Rushes, Say: func(text string) { fmt.Fprintln(s.err, text) },
	}
	if c.Faults {
		cfg.Replicas = fleet.Replicas
	}
	result, err := soak.Run(ctx, cfg)
	if err != nil {
		return errors.Join(err, fleet.Dead(), fleet.Stop())
	}
	if !result.OK {
		showLogs(s, fleet)
	}
	if err := errors.Join(fleet.Dead(), fleet.Stop()); err != nil {
		return err
	}
	return c.publish(s, &result)
}

// showLogs shows what the replicas have logged last.
func showLogs(s streams, f *sandbox.Fleet) {
	const shownLines = 20
	for _, r := range f.Replicas {
		fmt.Fprintf(s.err, "%s logged last:\n%s\n", r.Name, r.LogTail(shownLines))
	}
}

func (c *soakCmd) checkFlags() error {
	switch {
	case c.Duration <= 0:
		return fmt.Errorf("--duration must be more than 0, not %s", c.Duration)
	case c.PaymentWindow < time.Second:
		return fmt.Errorf("--payment-window must be at least 1s, not %s", c.PaymentWindow)
	case c.Actors < 0 || c.Actors > maxActors:
		return fmt.Errorf("--actors must be from 0 to %d, not %d", maxActors, c.Actors)
	case c.Rushes < 0 || c.Rushes > maxActors:
		return fmt.Errorf("--rushes must be from 0 to %d, not %d", maxActors, c.Rushes)
	case c.Actors+c.Rushes == 0:
		return errors.New("--actors 0 and --rushes 0 leave nothing to do")
	}
	if c.Seed == 0 {
		c.Seed = 1 + uint64(rand.Uint32()) // every reader of the JSON can hold it, and so can a person
	}
	return c.check()
}

func (c *soakCmd) publish(s streams, r *soak.Result) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	path := filepath.Join(c.Out, soakFile)
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := soak.Table(s.out, r); err != nil {
		return err
	}
	verdict := "Every answer was right."
	if !r.OK {
		verdict = fmt.Sprintf("Not proven: %d times something was broken. Again: bin/loadtest soak --seed %d", r.Broken, r.Seed)
	}
	if _, err := fmt.Fprintf(s.out, "%s\nWritten: %s (seed %d)\n", verdict, path, r.Seed); err != nil {
		return err
	}
	if !r.OK {
		return errNotProven
	}
	return nil
}
