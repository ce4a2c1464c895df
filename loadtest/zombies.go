package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/handover"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/zombie"
)

type zombiesCmd struct {
	databaseFlags
	Strategies []string `default:"all" placeholder:"NAME" help:"Strategies to run, or all that take a lock (default ${default})."`
	Fence      []string `default:"off,write,claim" placeholder:"off|write|claim" help:"Fences to run each under, where its lock yields tokens (default ${default})."`
	Runs       int      `default:"1" placeholder:"N" help:"Runs of each (default ${default})."`
	Out        string   `default:"out" placeholder:"DIR" help:"Folder for zombies.json (default ${default})."`
}

const (
	zombiesFile = "zombies.json"
	// zombiesAtOnce share two cores: most of a run is waiting for a lease's end.
	zombiesAtOnce = 8
	maxZombieRuns = 1000
)

// Run plays each run with a database of its own, on private servers.
func (c *zombiesCmd) Run(ctx context.Context, s streams) error {
	rows, fences, err := c.parse()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := lockserver.Check(rows...); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "Starting the servers ...")
	servers, err := startServers(ctx, sandbox.Config{Database: c.Database}, "", nil)
	if err != nil {
		return err
	}
	defer servers.stop()
	nameDatabase(s, servers.version)
	var all []zombie.Summary
	for _, row := range rows {
		fmt.Fprintf(s.err, "%s ...\n", row.Name)
		sums, err := c.play(ctx, servers, self, row, fences)
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		all = append(all, sums...)
	}
	if err := c.save(all); err != nil {
		return err
	}
	if err := zombie.Table(s.out, all); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(s zombie.Summary) bool { return !s.OK }) {
		fmt.Fprintln(s.out, "\nNot proven: a row did not come out as it must.")
		return errNotProven
	}
	_, err = fmt.Fprintln(s.out, "\n"+proven(all))
	return err
}

// proven says what rows show that all came out as they must: what a fence does
// shows only beside those without it.
func proven(all []zombie.Summary) string {
	claimed := func(s zombie.Summary) bool { return s.Fence == strategy.FenceClaim }
	less := func(s zombie.Summary) bool { return !claimed(s) }
	if slices.ContainsFunc(all, claimed) && slices.ContainsFunc(all, less) {
		return "Proven: a claimed fence lets no stale holder write, and nothing less does."
	}
	return "Every row came out as it must."
}

func (c *zombiesCmd) parse() (rows []strategy.Strategy, fences []strategy.Fence, err error) {
	if c.Runs < 1 || c.Runs > maxZombieRuns {
		return nil, nil, fmt.Errorf("--runs must be from 1 to %d, not %d", maxZombieRuns, c.Runs)
	}
	for _, text := range c.Fence {
		fence, err := strategy.ParseFence(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--fence: %w", err)
		}
		fences = append(fences, fence)
	}
	named, err := findStrategies(c.Strategies)
	if err != nil {
		return nil, nil, err
	}
	for _, row := range named {
		if row.Lock != strategy.NoLock {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 || len(fences) == 0 {
		return nil, nil, errors.New("--strategies names none that takes a lock, or --fence none")
	}
	return rows, fences, nil
}

// play makes all runs of one strategy, a few at a time.
func (c *zombiesCmd) play(ctx context.Context, servers *servers, self string, row strategy.Strategy, fences []strategy.Fence) ([]zombie.Summary, error) {
	if !row.Token {
		fences = []strategy.Fence{strategy.FenceOff}
	}
	at, err := servers.lockServer(ctx, row)
	if err != nil {
		return nil, err
	}
	results := make([][]zombie.Result, len(fences))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(zombiesAtOnce)
	for i, fence := range fences {
		results[i] = make([]zombie.Result, c.Runs)
		for run := range c.Runs {
			group.Go(func() error {
				name := fmt.Sprintf("zombie-%s-%s-%d", row.Name, fence, run)
				dsn, drop, err := servers.database(ctx, strings.ReplaceAll(name, "-", "_"))
				if err != nil {
					return err
				}
				defer drop()
				results[i][run], err = zombie.Run(ctx, zombie.Config{
					Strategy: row, Fence: fence, Name: name, Servers: *at, DSN: dsn, Argv: []string{self, zombieHolder},
				})
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	sums := make([]zombie.Summary, len(fences))
	for i, fence := range fences {
		sums[i] = zombie.Summarize(row, fence, results[i])
	}
	return sums, nil
}

// zombieHolder is the hidden command that a run's processes are.
const zombieHolder = "zombie-holder"

func (c *zombiesCmd) save(all []zombie.Summary) error {
	text, err := json.MarshalIndent(zombie.Figures{
		Command: fmt.Sprintf("bin/loadtest zombies --runs %d", c.Runs), Date: time.Now().UTC().Format(time.DateOnly),
		Machine: handover.Machine(), Rows: all,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Out, zombiesFile), append(text, '\n'), 0o644)
}
