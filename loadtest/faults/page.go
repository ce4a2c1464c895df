package faults

import (
	"embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

//go:embed assets
var assets embed.FS

var layout = report.NewLayout(assets, "assets/faults.html")

// The files that Save writes.
const (
	ResultFile = "faults.json"
	PageFile   = "faults.html"
)

// Save writes the figures and their page into dir, and creates dir if necessary.
func Save(dir string, f *Figures) error {
	return report.SaveBoth(dir, ResultFile, f, PageFile, func(w io.Writer) error { return Page(w, f) })
}

type pageView struct {
	*Figures
	Words     []string // of the command
	Columns   []string
	Parts     []pagePart
	Databases []string
	Charts    []*pageChart
}

// pagePart shows a scenario.
type pagePart struct {
	Name, Injected, Verdict string
	// Class is the style of the verdict.
	Class string
	Cells []string // of the row in the table, between name and verdict
	// Run is the one in the chart, of Runs.
	Run, Runs                int
	Facts, Violations, Notes []string
	Again                    []string
	// Chart is an index, or -1 without a timeline.
	Chart  int
	Faults [][]string
}

// Page writes the figures as one HTML page that loads no other file.
func Page(w io.Writer, f *Figures) error {
	v := pageView{Figures: f, Words: strings.Fields(f.Command), Columns: columns, Charts: []*pageChart{}}
	for _, r := range f.rows() {
		p, shown := r.part(f.Command)
		if shown.Timeline != nil {
			p.Chart = len(v.Charts)
			v.Charts = append(v.Charts, shown.chart())
			p.Faults = shown.Timeline.table()
		}
		v.Parts = append(v.Parts, p)
		for _, run := range r.runs {
			if !slices.Contains(v.Databases, run.Database) {
				v.Databases = append(v.Databases, run.Database)
			}
		}
	}
	return layout.Write(w, report.Head{
		Kind: "faults", Title: "Faults on real servers",
		Lead: "Each scenario makes one thing fail under load, ends the fault, and waits until every replica sells again. Then each answer is compared with " +
			"its row in the database, the audit runs, and the history of each small SKU must be linearizable.",
		Verdict: f.conclusion(), Good: f.OK, File: ResultFile,
	}, f, v)
}

// conclusion says in one line what broke.
func (f *Figures) conclusion() string {
	var broken, slow, survived, list []string
	rows := f.rows()
	for _, r := range rows {
		switch {
		case r.broken():
			broken = append(broken, r.scenario.Name)
		case r.slow():
			slow = append(slow, r.scenario.Name)
		}
	}
	for i := range f.Mutants {
		if !f.Mutants[i].Caught() {
			survived = append(survived, f.Mutants[i].Name)
		}
	}
	add := func(names []string, n int, what, wrong string) {
		if len(names) > 0 {
			list = append(list, fmt.Sprintf("%d of %d %s %s: %s", len(names), n, what, wrong, strings.Join(names, ", ")))
		}
	}
	add(broken, len(rows), "scenarios", "broke an invariant")
	add(slow, len(rows), "scenarios", "missed the goal")
	if len(rows) > 0 && len(list) == 0 {
		list = append(list, count(len(rows), "scenario")+", all ok")
	}
	add(survived, len(f.Mutants), "mutants", "survived")
	if len(f.Mutants) > 0 && len(survived) == 0 {
		list = append(list, count(len(f.Mutants), "mutant")+", all caught")
	}
	if len(list) == 0 {
		return "no scenario was run"
	}
	return strings.Join(list, "; ")
}

// count writes a number of things.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return proof.Comma(n) + " " + thing
}

func (r *row) broken() bool { return r.sum(func(run *Result) int { return len(run.Violations) }) > 0 }

// part describes a scenario, and returns the run that its chart shows: the last one that
// broke an invariant, or the last one.
func (r *row) part(command string) (pagePart, *Result) {
	cells, several := r.cells(), len(r.runs) > 1
	shown := r.runs[len(r.runs)-1]
	p := pagePart{Name: r.scenario.Name, Verdict: r.verdict(), Cells: cells[1 : len(cells)-1], Runs: len(r.runs), Chart: -1}
	for _, run := range r.runs {
		prefix := ""
		if several {
			prefix = fmt.Sprintf("Run %d, seed %d: ", run.Run, run.Seed)
		}
		for _, text := range run.Violations {
			p.Violations = append(p.Violations, prefix+text)
			shown = run
		}
		for _, text := range run.Notes {
			p.Notes = append(p.Notes, prefix+text)
		}
	}
	p.Injected, p.Run, p.Again = shown.Injected, shown.Run, again(command, shown)
	switch {
	case r.broken():
		p.Class = "lost"
	case !r.slow():
		p.Class = "exact"
	}
	goal := ""
	if r.scenario.NoSale > 0 {
		goal = fmt.Sprintf(" (goal for the median of %d or more runs: at most %g s)", EnoughRuns, r.scenario.NoSale.Seconds())
	}
	in := ""
	if several {
		in = fmt.Sprintf(" in run %d", shown.Run)
	}
	answers := fmt.Sprintf("Answers%s: %s sold", in, proof.Comma(shown.Sold))
	for _, reason := range shown.Reasons {
		answers += fmt.Sprintf(", %s x ", proof.Comma(reason.Count))
		if reason.Status > 0 {
			answers += fmt.Sprint(reason.Status, " ")
		}
		answers += reason.Slug
	}
	p.Facts = []string{
		"Longest time without a sale: " + r.seconds(noSale) + goal + ".",
		fmt.Sprintf("From the end of the fault until every replica sold: %s (bound: %.1f s).", r.seconds(healedIn), shown.BoundMS/1e3),
		"Longest wait of a buyer: " + r.seconds(func(run *Result) float64 { return run.WaitMS }) + ".",
		answers + ".",
		fmt.Sprintf("Checked for linearizability%s: %s on %s.", in, count(shown.Mixed.Calls, "mixed call"), count(shown.Mixed.SKUs, "SKU")),
	}
	return p, shown
}

// seconds writes a figure of all runs.
func (r *row) seconds(of func(*Result) float64) string {
	median, most := r.values(of)
	if len(r.runs) == 1 {
		return fmt.Sprintf("%.3f s", most/1e3)
	}
	return fmt.Sprintf("median %.3f s, maximum %.3f s", median/1e3, most/1e3)
}

// again returns the command that makes one run again, made from that of all runs.
func again(command string, r *Result) (kept []string) {
	words := strings.Fields(command)
	for i := 0; i < len(words); i++ {
		switch words[i] {
		case "--scenarios", "--runs", "--seed":
			i++
		case "--short":
		default:
			kept = append(kept, words[i])
		}
	}
	return append(kept, "--scenarios", r.Name, "--seed", fmt.Sprint(r.Seed))
}

// pageChart is a timeline for the script of the page.
type pageChart struct {
	StepS  float64     `json:"step_s"`
	Layers []pageLayer `json:"layers"`
	Mixed  pageLayer   `json:"mixed"`
	Faults []Span      `json:"faults"`
	// NoSale is where the longest time without a sale is seen: its first step and the one
	// after its last. Both are the same if it is too short to be seen.
	NoSale   [2]int  `json:"no_sale"`
	NoSaleMS float64 `json:"no_sale_ms"`
}

// pageLayer is a kind of answer, in steps.
type pageLayer struct {
	Name   string `json:"name"`
	Counts []int  `json:"counts"`
}

func (r *Result) chart() *pageChart {
	t := r.Timeline
	kinds := []string{kindSold, kindRefused, kindUnknown}
	for _, kind := range slices.Sorted(maps.Keys(t.Answers)) {
		if kind != kindMixed && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	steps := len(t.Answers[kindSold])
	c := &pageChart{StepS: (time.Duration(t.BucketMS) * time.Millisecond).Seconds(), Mixed: t.layer(kindMixed, steps), Faults: t.Faults, NoSaleMS: r.NoSaleMS}
	for _, kind := range kinds {
		c.Layers = append(c.Layers, t.layer(kind, steps))
	}
	if len(t.Faults) > 0 {
		c.NoSale = longestZeros(c.Layers, int(t.Faults[0].FromMS)/t.BucketMS)
	}
	return c
}

// layer returns a kind, also one without an answer.
func (t *Timeline) layer(kind string, steps int) pageLayer {
	if counts := t.Answers[kind]; counts != nil {
		return pageLayer{Name: kind, Counts: counts}
	}
	return pageLayer{Name: kind, Counts: make([]int, steps)}
}

// longestZeros returns the longest stretch of steps without an answer of the first layer,
// from a step on to the last one with an answer of any layer.
func longestZeros(layers []pageLayer, from int) (longest [2]int) {
	end := 0
	for _, layer := range layers {
		for i, n := range layer.Counts {
			if n > 0 {
				end = max(end, i+1)
			}
		}
	}
	for i := from; i < end; i++ {
		if layers[0].Counts[i] > 0 {
			from = i + 1
		} else if i+1-from > longest[1]-longest[0] {
			longest = [2]int{from, i + 1}
		}
	}
	return longest
}

// table lists the faults of a timeline with several.
func (t *Timeline) table() (rows [][]string) {
	if len(t.Faults) < 2 {
		return nil
	}
	for _, s := range t.Faults {
		sells := "never"
		if s.SellsMS > 0 {
			sells = fmt.Sprintf("%.2f", (s.SellsMS-s.ToMS)/1e3)
		}
		rows = append(rows, []string{s.Name, fmt.Sprintf("%.1f", s.FromMS/1e3), fmt.Sprintf("%.2f", (s.ToMS-s.FromMS)/1e3), sells})
	}
	return rows
}
