package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/bench"
)

type streamsCmd struct {
	databaseFlags
	Streams  int           `default:"5000" placeholder:"N" help:"Event streams to open (default ${default})."`
	Rounds   int           `default:"5" placeholder:"N" help:"Rounds of two runs, one with streams and one without; the table shows medians (default ${default})."`
	Duration time.Duration `default:"5s" placeholder:"D" help:"Measured time of a run, after its warm-up (default ${default})."`
	Workers  int           `default:"512" placeholder:"N" help:"Buyers of the closed loop: each waits for an answer and then sends the next order (default ${default})."`
	Updates  int           `default:"20" placeholder:"N" help:"Updates to time in each round while no orders arrive (default ${default})."`
	seedFlag
	apiFlag
	Profiles string `placeholder:"DIR" help:"Folder for CPU profiles of the replica: one for each run."`
}

// maxStreams is how many connections the harness and a replica can have open with the
// usual limit of 20,000 files.
const maxStreams = 15_000

// Run measures one replica on private servers.
func (c *streamsCmd) Run(ctx context.Context, s streams) (err error) {
	if err := cmp.Or(between("--streams", c.Streams, 1, maxStreams), between("--rounds", c.Rounds, 1, maxRounds),
		atLeast("--duration", c.Duration, 100*time.Millisecond), between("--workers", c.Workers, 1, 8192), atLeast("--updates", c.Updates, 1), c.find()); err != nil {
		return err
	}
	c.pick()
	servers, err := startServers(ctx, s, sandbox.Config{Database: c.Database})
	if err != nil {
		return err
	}
	defer servers.stop()
	dsn, drop, err := servers.database(ctx, "streams")
	if err != nil {
		return err
	}
	defer drop()
	cfg, err := servers.replica(ctx, strategy.Default, c.API, dsn)
	if err != nil {
		return err
	}
	cfg.Args = append(cfg.Args, "--max-streams="+strconv.Itoa(c.Streams), "--max-streams-address="+strconv.Itoa(c.Streams))
	var pprof string
	if c.Profiles != "" {
		port, err := sandbox.ReservePorts(1)
		if err != nil {
			return err
		}
		pprof = port[0].Addr
		cfg.Args = append(cfg.Args, "--pprof-addr="+pprof)
	}
	fleet, err := startFleet(ctx, cfg, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Stop()) }()
	got, err := bench.MeasureStreams(ctx, bench.StreamsConfig{
		Fleet: fleet, Streams: c.Streams, Rounds: c.Rounds, Updates: c.Updates, Duration: c.Duration, Workers: c.Workers, Seed: c.Seed,
		Profiles: c.Profiles, Pprof: pprof,
		Say: func(format string, args ...any) { fmt.Fprintf(s.err, format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	return bench.StreamsTable(s.out, c.Streams, got)
}
