package faults

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// Figures are the results of all runs. As JSON they are out/faults.json.
type Figures struct {
	Command string `json:"command"`
	Date    string `json:"date"`
	Machine string `json:"machine"`
	// Network says by what links are cut.
	Network   string   `json:"network"`
	Scenarios []Result `json:"scenarios"`
	// Mutants is what came of the seeded faults; empty unless they were asked for.
	Mutants []MutantResult `json:"mutants,omitempty"`
	OK      bool           `json:"ok"`
}

// Settle sets OK.
func (f *Figures) Settle() {
	f.OK = len(f.Scenarios)+len(f.Mutants) > 0
	for i := range f.Scenarios {
		f.OK = f.OK && f.Scenarios[i].OK
	}
	for _, row := range f.rows() {
		f.OK = f.OK && !row.slow()
	}
	for i := range f.Mutants {
		f.OK = f.OK && f.Mutants[i].Caught()
	}
}

// row is all runs of a scenario.
type row struct {
	scenario Scenario
	runs     []*Result
}

func (f *Figures) rows() []row {
	var rows []row
	for _, s := range All() {
		r := row{scenario: s}
		for i := range f.Scenarios {
			if f.Scenarios[i].Name == s.Name {
				r.runs = append(r.runs, &f.Scenarios[i])
			}
		}
		if len(r.runs) > 0 {
			rows = append(rows, r)
		}
	}
	return rows
}

// median and maximum of a figure of the runs, in milliseconds.
func (r *row) values(of func(*Result) float64) (median, most float64) {
	all := make([]float64, len(r.runs))
	for i, run := range r.runs {
		all[i] = of(run)
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

// EnoughRuns is how many runs make a median that counts.
const EnoughRuns = 3

// slow reports whether the median of the time without a sale exceeds its bound.
func (r *row) slow() bool {
	median, _ := r.values(noSale)
	return r.scenario.NoSale > 0 && len(r.runs) >= EnoughRuns && median > ms(r.scenario.NoSale)
}

func noSale(r *Result) float64   { return r.NoSaleMS }
func healedIn(r *Result) float64 { return r.HealedInMS }

func (r *row) sum(of func(*Result) int) (n int) {
	for _, run := range r.runs {
		n += of(run)
	}
	return n
}

func (r *row) verdict() string {
	broken := r.sum(func(run *Result) int { return len(run.Violations) })
	switch {
	case broken > 0:
		return "VIOLATIONS: " + fmt.Sprint(broken)
	case r.slow():
		return "ok, but SLOW"
	}
	return "ok"
}

var columns = []string{"scenario", "runs", "no sale", "goal", "sells again", "bound", "sold", "503", "unknown", "mixed", "verdict"}

func (r *row) cells() []string {
	pair := func(of func(*Result) float64) string {
		median, most := r.values(of)
		if len(r.runs) == 1 {
			return fmt.Sprintf("%.2f", most/1e3)
		}
		return fmt.Sprintf("%.2f, %.2f", median/1e3, most/1e3)
	}
	seconds := func(d time.Duration) string {
		if d == 0 {
			return ""
		}
		return fmt.Sprintf("%.1f", d.Seconds())
	}
	count := func(wanted func(proof.Reason) bool) string {
		return proof.Comma(r.sum(func(run *Result) (n int) {
			for _, reason := range run.Reasons {
				if wanted(reason) {
					n += reason.Count
				}
			}
			return n
		}))
	}
	return []string{
		r.scenario.Name, fmt.Sprint(len(r.runs)), pair(noSale), seconds(r.scenario.NoSale), pair(healedIn), fmt.Sprintf("%.1f", r.runs[0].BoundMS/1e3),
		proof.Comma(r.sum(func(run *Result) int { return run.Sold })),
		count(func(reason proof.Reason) bool { return reason.Status == 503 }),
		count(func(reason proof.Reason) bool { return reason.Status == 504 || reason.Status == 0 }),
		proof.Comma(r.sum(func(run *Result) int { return run.Mixed.Calls })), r.verdict(),
	}
}

// Write writes the figures as tables for a terminal.
func (f *Figures) Write(w io.Writer) error {
	var text strings.Builder
	if rows := f.rows(); len(rows) > 0 {
		var cells [][]string
		for _, r := range rows {
			cells = append(cells, r.cells())
		}
		fmt.Fprintf(&text, "%s\nTimes in seconds; of several runs the median and the maximum. No sale: the longest time without one, from the fault on. "+
			"Sells again: from the end of the fault until every replica sold. Mixed: calls on small SKUs, whose histories are linearizable unless the verdict says otherwise.\n",
			report.Grid("", columns, cells, 1, 1))
	}
	if len(f.Mutants) > 0 {
		var cells [][]string
		for i := range f.Mutants {
			cells = append(cells, f.Mutants[i].cells())
		}
		fmt.Fprintf(&text, "\n%s\n", report.Grid("", []string{"mutant", "caught by", "by"}, cells, 0, 3))
	}
	_, err := io.WriteString(w, text.String())
	return err
}
