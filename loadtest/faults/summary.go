package faults

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// Figures are the results of all runs of one table.
type Figures struct {
	Command string `json:"command"`
	Date    string `json:"date"`
	Machine string `json:"machine"`
	// Database describes the database: product, version and number of servers. Product
	// alone decides which goals hold.
	Database string          `json:"database"`
	Product  sandbox.Product `json:"product"`
	Runs     []Result        `json:"runs"`
	// MedianMS and MaxMS are, by fault, of the time without a sale; for "parted", of the
	// longest wait of a buyer.
	MedianMS map[string]float64 `json:"median_ms"`
	MaxMS    map[string]float64 `json:"max_ms"`
	// OK says that in every run each answer was right and has its row. It does not depend
	// on times.
	OK bool `json:"ok"`
	// GoalMet says that no time exceeds the product's goal.
	GoalMet bool `json:"goal_met"`

	// Table has the faults.
	Table *Table `json:"-"`
}

// Add adds a run.
func (f *Figures) Add(r Result) {
	f.Runs = append(f.Runs, r)
	f.MedianMS, f.MaxMS = map[string]float64{}, map[string]float64{}
	f.OK, f.GoalMet = true, true
	for _, row := range f.rows() {
		figure := row.fault.figure
		if figure == nil {
			figure = noSale
		}
		f.MedianMS[row.fault.Name], f.MaxMS[row.fault.Name] = row.values(figure)
		f.OK = f.OK && row.wrong() == 0
		f.GoalMet = f.GoalMet && row.goalMet()
	}
}

type row struct {
	fault *Fault
	goals []goal
	runs  []*Result
}

func (f *Figures) rows() []row {
	var rows []row
	for i := range f.Table.faults {
		fault := &f.Table.faults[i]
		row := row{fault: fault, goals: fault.goalsOn(f.Product)}
		for i := range f.Runs {
			if f.Runs[i].Fault == fault.Name {
				row.runs = append(row.runs, &f.Runs[i])
			}
		}
		if len(row.runs) > 0 {
			rows = append(rows, row)
		}
	}
	return rows
}

func (r *row) values(m *measure) (median, most float64) {
	all := make([]float64, len(r.runs))
	for i, run := range r.runs {
		all[i] = m.of(run)
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}

func (r *row) sum(of func(*Result) int) (n int) {
	for _, run := range r.runs {
		n += of(run)
	}
	return n
}

func (r *row) wrong() int {
	return r.sum(func(run *Result) int {
		if run.OK() {
			return 0
		}
		return 1
	})
}

func (r *row) goalMet() bool {
	within := func(figure float64, bound time.Duration) bool { return bound == 0 || figure <= ms(bound) }
	return !slices.ContainsFunc(r.goals, func(g goal) bool {
		median, most := r.values(g.measure)
		return !within(median, g.median) || !within(most, g.most)
	})
}

// goalText names the bounds and says whether they hold.
func (r *row) goalText() string {
	if len(r.goals) == 0 {
		return "none"
	}
	var bounds []string
	for _, g := range r.goals {
		text := g.measure.name
		if g.median > 0 {
			text += fmt.Sprint(" median ", g.median, ",")
		}
		bounds = append(bounds, text+fmt.Sprint(" max ", g.most))
	}
	verdict := "met"
	if !r.goalMet() {
		verdict = "MISSED"
	}
	return strings.Join(bounds, "; ") + ": " + verdict
}

func (r *row) verdict() string {
	if n := r.wrong(); n > 0 {
		return fmt.Sprintf("WRONG in %d", n)
	}
	return "exact"
}

// Write writes the figures as a table for a terminal.
func (f *Figures) Write(w io.Writer) error {
	header := []string{"fault", "runs"}
	for _, m := range f.Table.measures {
		header = append(header, m.name)
	}
	header = append(header, "errors")
	if f.Table.pays {
		header = append(header, "payments 503", "504", "lost")
	}
	header = append(header, "verdict", "goal")
	var rows [][]string
	for _, r := range f.rows() {
		sum := func(of func(*Result) int) string { return strconv.Itoa(r.sum(of)) }
		line := []string{r.fault.Name, strconv.Itoa(len(r.runs))}
		for _, m := range f.Table.measures {
			median, most := r.values(m)
			line = append(line, fmt.Sprintf("%.2f, %.2f", median/1e3, most/1e3))
		}
		line = append(line, sum(func(run *Result) int { return run.Errors }))
		if f.Table.pays {
			line = append(line,
				sum(func(run *Result) int { return count(run.Payments, http.StatusServiceUnavailable) }),
				sum(func(run *Result) int { return count(run.Payments, http.StatusGatewayTimeout) }),
				sum(func(run *Result) int { return run.Lost }))
		}
		rows = append(rows, append(line, r.verdict(), r.goalText()))
	}
	_, err := fmt.Fprintf(w, "%s\nTimes in seconds, counted from the fault: median, maximum.\n", report.Grid("", header, rows, 1, 2))
	return err
}

// String describes the run in a line, and its examples in further lines.
func (r *Result) String() string {
	line := fmt.Sprintf("%-8s %s, ", r.Fault, r.Seller)
	if r.Server > 0 {
		line = fmt.Sprintf("%-8s server %d, writable after %5.2f s, ", r.Fault, r.Server, r.WritableMS/1e3)
	}
	line += fmt.Sprintf("orders after %5.2f s, no sale for %5.2f s, longest wait %5.2f s, %d sold, orders%s",
		r.OrdersMS/1e3, r.GapMS/1e3, r.WaitMS/1e3, r.Sold, listed(r.Reasons))
	if r.Server > 0 {
		line += fmt.Sprintf(", %d paid, payments%s", r.Paid, listed(r.Payments))
	}
	line += ": " + string(r.Verdict)
	if r.Wrong > 0 {
		line += fmt.Sprintf(", %d WRONG answers", r.Wrong)
	}
	if r.Lost > 0 {
		line += fmt.Sprintf(", %d LOST", r.Lost)
	}
	return strings.Join(append([]string{line}, r.Examples...), "\n  ")
}

func listed(reasons []proof.Reason) string {
	if len(reasons) == 0 {
		return " without errors"
	}
	texts := make([]string, len(reasons))
	for i, reason := range reasons {
		texts[i] = fmt.Sprintf(" %dx %d %s", reason.Count, reason.Status, reason.Slug)
	}
	return strings.Join(texts, ",")
}
