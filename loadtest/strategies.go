package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"
	"time"

	"flashsale/internal/guard"
	"flashsale/internal/lock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/handover"
)

//go:generate sh -c "go run . strategies > strategies.new && mv strategies.new ../docs/strategies.md"

// handoverFile is where the figures in the docs are, seen from this package.
const handoverFile = "../docs/handover.json"

type handoverCmd struct {
	Strategies []string `default:"all" placeholder:"NAME" help:"Strategies to measure, or all that take a lock (default ${default})."`
	Rounds     int      `default:"50" placeholder:"N" help:"Hand-overs of each (default ${default})."`
	Out        string   `default:"out/handover.json" placeholder:"FILE" help:"File for the figures (default ${default})."`
}

// maxRounds is minutes of each lock.
const maxRounds = 10_000

// Run measures one lock after the other, on private servers.
func (c *handoverCmd) Run(ctx context.Context, s streams) error {
	if c.Rounds < 1 || c.Rounds > maxRounds {
		return fmt.Errorf("--rounds must be from 1 to %d, not %d", maxRounds, c.Rounds)
	}
	rows, err := findStrategies(c.Strategies)
	if err != nil {
		return err
	}
	servers, err := startServers(ctx, "", nil)
	if err != nil {
		return err
	}
	defer servers.stop()
	figures := handover.Figures{
		Command: fmt.Sprintf("bin/loadtest handover --rounds %d", c.Rounds), Date: time.Now().UTC().Format(time.DateOnly),
		Machine: handover.Machine(), Rounds: c.Rounds, MedianMS: map[string]float64{},
	}
	for _, row := range rows {
		if row.Lock == strategy.NoLock {
			continue
		}
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

type strategiesCmd struct {
	Handover string `default:"../docs/handover.json" placeholder:"FILE" help:"Figures of loadtest handover (default ${default}, seen from its source)."`
}

// Run prints docs/strategies.md.
func (c *strategiesCmd) Run(s streams) error {
	page, err := strategiesPage(c.Handover)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.out, page)
	return err
}

//go:embed strategies.md.tmpl
var strategiesTemplate string

// strategiesPage is the page that shows the registry, what each lock declares, and
// the figures.
func strategiesPage(figuresFile string) (string, error) {
	text, err := os.ReadFile(figuresFile)
	if err != nil {
		return "", err
	}
	var figures handover.Figures
	if err := json.Unmarshal(text, &figures); err != nil {
		return "", fmt.Errorf("%s: %w", figuresFile, err)
	}
	page, err := template.New("strategies").Parse(strategiesTemplate)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = page.Execute(&out, map[string]any{
		"Strategies": strategyTable(), "Locks": lockTable(figures), "Figures": figures,
	})
	return out.String(), err
}

func strategyTable() string {
	rows := [][]string{{"name", "lock", "write", "needs", "right on", "fence", "shows"}}
	for _, s := range strategy.All() {
		taken, needs, fence := string(s.Lock), "MySQL", "-"
		if s.Lock == strategy.NoLock {
			taken = "-"
		}
		if s.Server != strategy.InMySQL {
			needs += ", " + string(s.Server)
		}
		if s.Token {
			fence = "off, write, claim"
		}
		rows = append(rows, []string{"`" + s.Name + "`", taken, string(s.Write), needs, rightOn(s), fence, s.Shows})
	}
	return markdown(rows)
}

func rightOn(s strategy.Strategy) string {
	switch s.Replicas {
	case 0:
		return "none"
	case 1:
		return "one replica"
	}
	return "any number"
}

func lockTable(figures handover.Figures) string {
	rows := [][]string{{"strategy", "processes", "fair", "try", "deadline", "renewed", "loss notice", "token", "told of waiters", "queue shown",
		"re-entrant", "owner shown", "survives server restart", "round trips", "hand-over"}}
	for _, s := range strategy.All() {
		c, ok := guard.Capabilities(s)
		if !ok {
			continue
		}
		rows = append(rows, lockRow(s, c, figures))
	}
	return markdown(rows)
}

func lockRow(s strategy.Strategy, c lock.Capabilities, figures handover.Figures) []string {
	yes := func(is bool) string {
		if is {
			return "yes"
		}
		return "-"
	}
	took := "not measured"
	if ms, ok := figures.MedianMS[s.Name]; ok {
		took = fmt.Sprintf("%.2f ms", ms)
	}
	const try = true // every Locker has TryLock
	return []string{"`" + s.Name + "`", yes(c.Processes), yes(c.Fair), yes(try), yes(c.Deadline), yes(c.Renewed), yes(c.LossNotice), yes(c.Token),
		yes(c.Wanted), yes(c.Queue), yes(c.Reentrant), yes(guard.TellsOwner(s)), yes(c.Restart),
		fmt.Sprintf("%d + %d", c.LockTrips, c.UnlockTrips), took}
}

func markdown(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		b.WriteString("| " + strings.Join(row, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat(" --- |", len(row)) + "\n")
		}
	}
	return b.String()
}
