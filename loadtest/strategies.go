package main

import (
	_ "embed"
	"errors"
	"io"
	"os"
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
		"Strategies": strategy.All(), "Locks": lockRows(handovers), "Figures": handovers, "Zombies": zombies,
	})
	return out.String(), err
}

// lockRow is a row of the table of locks.
type lockRow struct {
	strategy.Strategy
	lock.Capabilities
	ShowsHolder bool
	MS          float64 // the median hand-over; 0 if it was not measured
}

func lockRows(figures handover.Figures) (rows []lockRow) {
	for _, s := range strategy.All() {
		if c, ok := backend.Capabilities(s); ok {
			rows = append(rows, lockRow{s, c, backend.ShowsHolder(s), figures.MedianMS[s.Name]})
		}
	}
	return rows
}
