package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/soak"
)

type soakCmd struct {
	replicaFlags
	databaseFlags
	Duration time.Duration `default:"15m" placeholder:"D" help:"How long to send calls (default ${default})."`
	seedFlag
	PaymentWindow time.Duration `default:"2s" placeholder:"D" help:"The replicas' payment window (default ${default})."`
	Actors        int           `default:"6" placeholder:"N" help:"Actors that each have a SKU of their own (default ${default})."`
	Rushes        int           `default:"2" placeholder:"N" help:"SKUs that four actors share (default ${default})."`
	Faults        bool          `default:"true" negatable:"" help:"Kill and stop replicas meanwhile (default)."`
	outFlag       `embed:"" set:"file=soak.json"`
}

const (
	soakFile = "soak.json"
	// maxActors is how many actors the connections and two cores can serve.
	maxActors = 100
	// soakLockTTL is the shortest TTL that etcd grants: a stopped replica outlasts it.
	soakLockTTL = 2 * time.Second
	// soakRateLimit is low enough that some customers reach it.
	soakRateLimit = "20/1s"
)

// Run soaks private replicas on private servers.
func (c *soakCmd) Run(ctx context.Context, s streams) error {
	if err := c.checkFlags(); err != nil {
		return err
	}
	servers, err := startServers(ctx, s, sandbox.Config{Database: c.Database})
	if err != nil {
		return err
	}
	defer servers.stop()
	dsn, _, err := servers.database(ctx, "soak")
	if err != nil {
		return err
	}
	replica, err := servers.replica(ctx, strategy.Default, c.API, dsn)
	if err != nil {
		return err
	}
	replica.Args = append(replica.Args, sandbox.FewCustomers...)
	replica.Args = append(replica.Args, "--lock-ttl="+soakLockTTL.String(), "--payment-window="+c.PaymentWindow.String(), "--rate-limit-customer="+soakRateLimit)
	fleet, err := startFleet(ctx, replica, c.Replicas)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "Sending random calls for %s, seed %d\n", c.Duration, c.Seed)
	cfg := soak.Config{
		URLs: fleet.URLs(), DSN: dsn, AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret, Window: c.PaymentWindow,
		Duration: c.Duration, Seed: c.Seed, Actors: c.Actors, Rushes: c.Rushes, OnFault: func(text string) { fmt.Fprintln(s.err, text) },
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

func showLogs(s streams, f *sandbox.Fleet) {
	const shownLines = 20
	for _, r := range f.Replicas {
		fmt.Fprintf(s.err, "%s logged last:\n%s\n", r.Name, r.LogTail(shownLines))
	}
}

func (c *soakCmd) checkFlags() error {
	c.pick()
	if c.Duration <= 0 {
		return fmt.Errorf("--duration must be more than 0, not %s", c.Duration)
	}
	if c.Actors == 0 && c.Rushes == 0 {
		return errors.New("--actors and --rushes must not both be 0: there would be nothing to do")
	}
	return cmp.Or(atLeast("--payment-window", c.PaymentWindow, time.Second),
		between("--actors", c.Actors, 0, maxActors), between("--rushes", c.Rushes, 0, maxActors), c.check())
}

func (c *soakCmd) publish(s streams, r *soak.Result) error {
	if err := c.save(soakFile, r); err != nil {
		return err
	}
	if err := soak.Table(s.out, r); err != nil {
		return err
	}
	verdict := "Every answer was right."
	if !r.OK {
		verdict = fmt.Sprintf("Not proven: %d violations. To repeat the run: bin/loadtest soak --seed %d", r.Broken, r.Seed)
	}
	if _, err := fmt.Fprintf(s.out, "%s\nWritten: %s (seed %d)\n", verdict, filepath.Join(c.Out, soakFile), r.Seed); err != nil {
		return err
	}
	if !r.OK {
		return errNotProven
	}
	return nil
}
