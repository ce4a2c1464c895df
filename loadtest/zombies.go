package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/zombie"
)

type zombiesCmd struct {
	databaseFlags
	Strategies []string `default:"all" placeholder:"NAME" help:"Strategies to run; all are those that take a lock (default ${default})."`
	Fence      []string `default:"off,write,claim" placeholder:"off|write|claim" help:"Fences to run each strategy under, if its lock has fencing tokens (default ${default})."`
	Runs       int      `default:"1" placeholder:"N" help:"Runs of each strategy under each fence (default ${default})."`
	outFlag    `embed:"" set:"file=zombies.json"`
}

const (
	zombiesFile = "zombies.json"
	// zombiesAtOnce bounds the runs at the same time. Most of a run is waiting until a lease
	// expires.
	zombiesAtOnce = 8
	maxZombieRuns = 1000
)

// Run makes all runs on private servers, each with its own database.
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
	servers, err := startServers(ctx, s, sandbox.Config{Database: c.Database})
	if err != nil {
		return err
	}
	defer servers.stop()
	var all []zombie.Summary
	for _, row := range rows {
		fmt.Fprintf(s.err, "%s ...\n", row.Name)
		sums, err := c.play(ctx, servers, self, row, fences)
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		all = append(all, sums...)
	}
	figures := zombie.Figures{Command: fmt.Sprintf("bin/loadtest zombies --runs %d", c.Runs), Date: today(), Machine: machine(), Rows: all}
	if err := c.save(zombiesFile, figures); err != nil {
		return err
	}
	if err := zombie.Table(s.out, all); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(s zombie.Summary) bool { return !s.OK }) {
		fmt.Fprintln(s.out, "\nNot proven: a row does not have the result that it must have.")
		return errNotProven
	}
	_, err = fmt.Fprintln(s.out, "\n"+proven(all))
	return err
}

// proven says what the rows prove if all have the result that they must have. What a
// fence does shows only in comparison with a run without it.
func proven(all []zombie.Summary) string {
	claimed := func(s zombie.Summary) bool { return s.Fence == strategy.FenceClaim }
	other := func(s zombie.Summary) bool { return !claimed(s) }
	if slices.ContainsFunc(all, claimed) && slices.ContainsFunc(all, other) {
		return "Proven: a claimed fence refuses every write of a stale holder; no weaker fence does."
	}
	return "Every row has the result that it must have."
}

func (c *zombiesCmd) parse() (rows []strategy.Strategy, fences []strategy.Fence, err error) {
	if err := between("--runs", c.Runs, 1, maxZombieRuns); err != nil {
		return nil, nil, err
	}
	for _, text := range c.Fence {
		fence, err := strategy.ParseFence(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--fence: %w", err)
		}
		fences = append(fences, fence)
	}
	if len(fences) == 0 {
		return nil, nil, errors.New("--fence must name at least one fence")
	}
	rows, err = lockStrategies(c.Strategies)
	return rows, fences, err
}

// play makes all runs of one strategy, several at a time.
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

const zombieHolder = "zombie-holder"
