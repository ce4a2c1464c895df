package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
	"flashsale/loadtest/handover"
	"flashsale/loadtest/lockserver"
)

type handoverCmd struct {
	databaseFlags
	Strategies []string `default:"all" placeholder:"NAME" help:"Strategies to measure, or all that take a lock (default ${default})."`
	Rounds     int      `default:"50" placeholder:"N" help:"Hand-overs of each (default ${default})."`
	Out        string   `default:"out/handover.json" placeholder:"FILE" help:"File for the figures (default ${default})."`
}

// maxRounds is minutes of each lock.
const maxRounds = 10_000

// Run measures one lock after the other, on private servers.
func (c *handoverCmd) Run(ctx context.Context, s streams) error {
	rows, err := c.parse()
	if err != nil {
		return err
	}
	if err := lockserver.Check(rows...); err != nil {
		return err
	}
	// What takes minutes to measure must have a place to go.
	if err := os.MkdirAll(filepath.Dir(c.Out), 0o755); err != nil {
		return err
	}
	fmt.Fprintln(s.err, "Starting the servers ...")
	servers, err := startServers(ctx, sandbox.Config{Database: c.Database}, "", nil)
	if err != nil {
		return err
	}
	defer servers.stop()
	nameDatabase(s, servers.version)
	figures := handover.Figures{
		Command: fmt.Sprintf("bin/loadtest handover --rounds %d", c.Rounds), Date: time.Now().UTC().Format(time.DateOnly),
		Machine: handover.Machine(), Rounds: c.Rounds, MedianMS: map[string]float64{},
	}
	for _, row := range rows {
		at, err := servers.lockServer(ctx, row)
		if err != nil {
			return err
		}
		dsn, drop, err := servers.database(ctx, databaseName(0, "handover_"+row.Name))
		if err != nil {
			return err
		}
		median, err := handover.Measure(ctx, handover.Config{Strategy: row, Servers: *at, DSN: dsn, Rounds: c.Rounds})
		drop()
		if err != nil {
			return fmt.Errorf("%s: %w", row.Name, err)
		}
		figures.MedianMS[row.Name] = float64(median.Microseconds()) / 1e3
		fmt.Fprintf(s.out, "%-22s %8.2f ms\n", row.Name, figures.MedianMS[row.Name])
	}
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.Out, append(text, '\n'), 0o644)
}

// parse finds the strategies that take a lock.
func (c *handoverCmd) parse() ([]strategy.Strategy, error) {
	if c.Rounds < 1 || c.Rounds > maxRounds {
		return nil, fmt.Errorf("--rounds must be from 1 to %d, not %d", maxRounds, c.Rounds)
	}
	named, err := findStrategies(c.Strategies)
	if err != nil {
		return nil, err
	}
	rows := slices.DeleteFunc(slices.Clone(named), func(s strategy.Strategy) bool { return s.Lock == strategy.NoLock })
	if len(rows) == 0 {
		return nil, errors.New("--strategies names none that takes a lock")
	}
	return rows, nil
}
