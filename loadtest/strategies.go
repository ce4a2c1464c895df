package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/template"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/handover"
	"flashsale/loadtest/zombie"
)

//go:generate sh -c "go run . strategies > strategies.new && mv strategies.new ../docs/strategies.md"

// The figures in the docs, relative to this package.
const (
	docsHandover = "../docs/handover.json"
	docsZombies  = "../docs/zombies.json"
)

type strategiesCmd struct {
	Handover string `default:"../docs/handover.json" placeholder:"FILE" help:"Figures of loadtest handover (default ${default}, relative to the source of loadtest)."`
	Zombies  string `default:"../docs/zombies.json" placeholder:"FILE" help:"Figures of loadtest zombies (default ${default}). Without the file, the page has no such table."`
}

// Run prints docs/strategies.md.
func (c *strategiesCmd) Run(s streams) error {
	page, err := strategiesPage(c.Handover, c.Zombies)
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.out, page)
	return err
}

//go:embed strategies.md.tmpl
var strategiesTemplate string

// strategiesPage returns the page with the registry, the properties of each lock and the
// figures.
func strategiesPage(handoverFile, zombiesFile string) (string, error) {
	var handovers handover.Figures
	if err := readJSON(handoverFile, &handovers); err != nil {
		return "", err
	}
	var zombies zombie.Figures
	if err := readJSON(zombiesFile, &zombies); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	page, err := template.New("strategies").Parse(strategiesTemplate)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = page.Execute(&out, map[string]any{
		"Strategies": strategyTable(), "Locks": lockTable(handovers), "Figures": handovers,
		"Zombies": zombies, "ZombieTable": zombieTable(zombies.Rows),
	})
	return out.String(), err
}

func strategyTable() string {
	rows := [][]string{{"name", "lock", "write", "needs", "correct on", "MySQL servers that accept writes", "fence", "shows"}}
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
		rows = append(rows, []string{"`" + s.Name + "`", taken, string(s.Write), needs, correctOn(s), s.Servers(), fence, s.Shows})
	}
	return markdown(rows)
}

func correctOn(s strategy.Strategy) string {
	switch s.Replicas {
	case 0:
		return "none"
	case 1:
		return "one replica"
	}
	return "any number"
}

func lockTable(figures handover.Figures) string {
	rows := [][]string{{"strategy", "processes", "fair", "try", "deadline", "renewed", "loss notice", "token", "told of waiters", "shows queue",
		"re-entrant", "shows holder", "survives server restart", "round trips", "hand-over"}}
	for _, s := range strategy.All() {
		c, ok := backend.Capabilities(s)
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
		yes(c.Contended), yes(c.Queue), yes(c.Reentrant), yes(backend.ShowsHolder(s)), yes(c.Restart),
		fmt.Sprintf("%d + %d", c.LockTrips, c.UnlockTrips), took}
}

func zombieTable(sums []zombie.Summary) string {
	rows := [][]string{{"strategy", "fence", "runs", "seconds with two holders", "lost updates", "units oversold", "in how many runs"}}
	for _, s := range sums {
		rows = append(rows, []string{
			"`" + s.Strategy + "`", string(s.Fence), strconv.Itoa(s.Runs), fmt.Sprintf("%.2f", s.TwoHolders.Seconds()),
			strconv.FormatInt(s.After.Lost+s.Amid.Lost, 10), strconv.FormatInt(s.After.Oversold+s.Amid.Oversold, 10),
			strconv.Itoa(s.OversoldRuns),
		})
	}
	return markdown(rows)
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
