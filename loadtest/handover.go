package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/handover"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/report"
)

type handoverCmd struct {
	databaseFlags
	Strategies []string `default:"all" placeholder:"NAME" help:"Strategies to measure; all are those that take a lock (default ${default})."`
	Rounds     int      `default:"50" placeholder:"N" help:"Hand-overs to measure for each strategy (default ${default})."`
	Out        string   `default:"out/handover.json" placeholder:"FILE" help:"File for the figures (default ${default})."`
}

// maxRounds takes about half an hour for each lock.
const maxRounds = 10_000

// Run measures one lock after the other, on private servers.
func (c *handoverCmd) Run(ctx context.Context, s streams) error {
	if err := between("--rounds", c.Rounds, 1, maxRounds); err != nil {
		return err
	}
	rows, err := lockStrategies(c.Strategies)
	if err != nil {
		return err
	}
	if err := lockserver.Check(rows...); err != nil {
		return err
	}
	// Fail before the measurement, which takes minutes.
	if err := os.MkdirAll(filepath.Dir(c.Out), 0o755); err != nil {
		return err
	}
	servers, err := startServers(ctx, s, sandbox.Config{Database: c.Database})
	if err != nil {
		return err
	}
	defer servers.stop()
	figures := handover.Figures{
		Command: fmt.Sprintf("bin/loadtest handover --rounds %d", c.Rounds), Date: today(),
		Machine: machine(), Rounds: c.Rounds, MedianMS: map[string]float64{},
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
	return report.SaveJSON(c.Out, figures, 0o644)
}
