package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"flashsale/loadtest/bench"
	"flashsale/loadtest/peer"
)

type benchCmd struct {
	databaseFlags
	Peers    []string      `placeholder:"NAME" help:"Peers to run (default all of ${peers})."`
	Loads    []string      `placeholder:"LOAD" help:"How buyers are spread over SKUs: hot, even:N, zipf:N, sold-out (default ${loads})."`
	Replicas int           `default:"0" placeholder:"N" help:"Replicas of each peer. 0 is 2, with some runs on 1 and 4 for comparison."`
	Duration time.Duration `default:"3s" placeholder:"D" help:"Measured time of a run, after its warm-up (default ${default})."`
	Rounds   int           `default:"3" placeholder:"N" help:"How often each run is repeated; the table shows medians (default ${default})."`
	Workers  int           `default:"512" placeholder:"N" help:"Buyers of the closed loop: each waits for an answer and then sends the next order (default ${default})."`
	Rate     int           `default:"0" placeholder:"N" help:"Use an open loop instead: this many requests per second, whether or not they are answered."`
	Binlog   bool          `help:"Run with a binlog at sync_binlog=1."`
	Full     bool          `help:"Run every peer under every load, on 1, 2 and 4 replicas, in an open loop and with a binlog. It takes hours."`
	seedFlag
	TimeLimit time.Duration `default:"15m" placeholder:"D" help:"Start no run that would end later (default ${default}; none with --full)."`
	apiFlag
	Profiles string `placeholder:"DIR" help:"Folder for CPU profiles: one for each run of each replica of the service."`
	outFlag  `embed:"" set:"file=bench.json and bench.html"`
}

// Run measures, saves and prints. It returns errNotProven if a run that must be exact was not.
func (c *benchCmd) Run(ctx context.Context, s streams) error {
	programme, err := c.programme()
	if err != nil {
		return err
	}
	c.pick()
	cfg := bench.Config{
		Programme: programme, Rounds: c.Rounds, Duration: c.Duration, Workers: c.Workers, Seed: c.Seed, TimeLimit: c.TimeLimit,
		Profiles: c.Profiles, Database: c.Database,
		Say: func(format string, args ...any) { fmt.Fprintf(s.err, format+"\n", args...) },
	}
	if c.Full {
		cfg.TimeLimit = 0
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	if err := cmp.Or(between("--replicas", c.Replicas, 0, maxReplicas), c.find()); err != nil {
		return err
	}
	cfg.API = c.API
	result, err := bench.Measure(ctx, cfg)
	if err != nil {
		return err
	}
	if err := bench.Save(c.Out, result); err != nil {
		return err
	}
	nameDatabase(s, result.Database)
	if err := bench.Table(s.out, result); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(s.out, "Written: %[1]s/%[2]s and %[1]s/%[3]s (seed %[4]d)\n", c.Out, bench.ResultFile, bench.PageFile, result.Seed); err != nil {
		return err
	}
	if !result.Proven {
		return errNotProven
	}
	return nil
}

// programme returns the standard programme, or the one that the flags describe.
func (c *benchCmd) programme() (bench.Programme, error) {
	var none bench.Programme
	peers := peer.All()
	if len(c.Peers) > 0 {
		peers = nil
		for _, name := range c.Peers {
			found, err := peer.Find(strings.TrimSpace(name))
			if err != nil {
				return none, fmt.Errorf("--peers: %w", err)
			}
			peers = append(peers, found)
		}
	}
	for _, load := range c.Loads {
		if _, err := bench.ParseLoad(load, 1); err != nil {
			return none, fmt.Errorf("--loads: %w", err)
		}
	}
	if err := atLeast("--rate", c.Rate, 0); err != nil {
		return none, err
	}
	switch {
	case c.Full:
		p := bench.Full()
		p.Rate = c.Rate
		return p.Keep(peers), nil
	case len(c.Loads) == 0 && c.Replicas == 0 && c.Rate == 0 && !c.Binlog:
		return bench.Standard().Keep(peers), nil
	}
	setting := bench.Setting{Replicas: c.Replicas, Binlog: c.Binlog, Open: c.Rate > 0}
	if setting.Replicas == 0 {
		setting.Replicas = bench.StandardReplicas
	}
	if len(c.Loads) == 0 {
		c.Loads = []string{"hot"}
	}
	p := bench.Programme{Rate: c.Rate}
	for _, setting.Load = range slices.Compact(c.Loads) {
		p.Sections = append(p.Sections, bench.Section{Setting: setting, Peers: peers})
	}
	return p, nil
}

type peerCmd struct{ peer.ServeConfig }

// Run serves until ctx ends.
func (c *peerCmd) Run(ctx context.Context) error {
	c.Log = os.Stderr
	return peer.Serve(ctx, c.ServeConfig)
}
