package failover

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/proof"
)

// Figures are what was measured.
type Figures struct {
	Command string `json:"command"`
	Date    string `json:"date"`
	Machine string `json:"machine"`
	// Database is the cluster's product, version and size; Product is the first.
	Database string          `json:"database"`
	Product  sandbox.Product `json:"product"`
	Runs     []Result        `json:"runs"`
	// OK: in every run each answer was right and has its row. It says nothing of
	// times.
	OK bool `json:"ok"`
	// GoalMet: no run took longer than the product's goal.
	GoalMet bool `json:"goal_met"`
}

// Add takes another run in.
func (f *Figures) Add(r Result) {
	f.Runs = append(f.Runs, r)
	f.OK, f.GoalMet = true, true
	for _, row := range f.rows() {
		f.OK = f.OK && row.wrong == 0
		f.GoalMet = f.GoalMet && row.goalMet()
	}
}

// row is all runs of one fault. Its times are sorted, in milliseconds.
type row struct {
	fault                        *Fault
	goal                         goal
	writable, orders, after, gap []float64
	refused, ambiguous           int // payments answered 503 and 504
	lost                         int
	wrong                        int // runs that are not OK
}

func (f *Figures) rows() []row {
	var rows []row
	for i := range faults {
		row := row{fault: &faults[i], goal: faults[i].goals[f.Product]}
		for i := range f.Runs {
			r := &f.Runs[i]
			if r.Fault != row.fault.Name {
				continue
			}
			row.writable = append(row.writable, r.WritableMS)
			row.orders = append(row.orders, r.OrdersMS)
			row.after = append(row.after, r.OrdersMS-r.WritableMS)
			row.gap = append(row.gap, r.GapMS)
			row.lost += r.Lost
			row.refused += count(r.Payments, http.StatusServiceUnavailable)
			row.ambiguous += count(r.Payments, http.StatusGatewayTimeout)
			if !r.OK() {
				row.wrong++
			}
		}
		if len(row.orders) > 0 {
			for _, all := range [][]float64{row.writable, row.orders, row.after, row.gap} {
				slices.Sort(all)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func count(reasons []proof.Reason, status int) (n int) {
	for _, reason := range reasons {
		if reason.Status == status {
			n += reason.Count
		}
	}
	return n
}

func median(sorted []float64) float64 { return sorted[len(sorted)/2] }
func most(sorted []float64) float64   { return sorted[len(sorted)-1] }

func (r *row) goalMet() bool {
	within := func(sorted []float64, bound time.Duration) bool { return bound == 0 || most(sorted) <= ms(bound) }
	return within(r.gap, r.goal.gap) && within(r.after, r.goal.after)
}

// goalText is the bounds in words, and whether they hold.
func (r *row) goalText() string {
	if r.goal == (goal{}) {
		return "none"
	}
	bounds := fmt.Sprint("gap ", r.goal.gap)
	if r.goal.after > 0 {
		bounds += fmt.Sprint(", after ", r.goal.after)
	}
	if r.goalMet() {
		return bounds + ": met"
	}
	return bounds + ": MISSED"
}

func (r *row) verdict() string {
	if r.wrong > 0 {
		return fmt.Sprintf("WRONG in %d", r.wrong)
	}
	return "exact"
}

// Table writes the figures for a terminal. Times are in seconds, median and longest.
func (f *Figures) Table(w io.Writer) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(table.Row{"fault", "runs", "writable s", "orders s", "gap s", "payments 503", "504", "lost", "audit", "goal"})
	times := func(sorted []float64) string {
		return fmt.Sprintf("%.1f, %.1f", median(sorted)/1e3, most(sorted)/1e3)
	}
	for _, r := range f.rows() {
		t.AppendRow(table.Row{r.fault.Name, len(r.orders), times(r.writable), times(r.orders), times(r.gap), r.refused, r.ambiguous, r.lost, r.verdict(), r.goalText()})
	}
	_, err := fmt.Fprintf(w, "%s\nMedian and longest, from the fault: until a server takes writes, until an order sent since is taken, and the longest time without a sale.\n", t.Render())
	return err
}

// String is the run in a line.
func (r *Result) String() string {
	verdict := string(r.Verdict)
	if r.Wrong > 0 {
		verdict += fmt.Sprintf(", %d WRONG answers", r.Wrong)
	}
	if r.Lost > 0 {
		verdict += fmt.Sprintf(", %d LOST", r.Lost)
	}
	line := fmt.Sprintf("%-8s server %d, writable after %5.2f s, orders after %5.2f s, no sale for %5.2f s, %d sold, %d paid, orders%s, payments%s: %s",
		r.Fault, r.Server, r.WritableMS/1e3, r.OrdersMS/1e3, r.GapMS/1e3, r.Sold, r.Paid, told(r.Orders), told(r.Payments), verdict)
	return strings.Join(append([]string{line}, r.Examples...), "\n  ")
}

func told(reasons []proof.Reason) string {
	if len(reasons) == 0 {
		return " without errors"
	}
	texts := make([]string, len(reasons))
	for i, reason := range reasons {
		texts[i] = fmt.Sprintf(" %dx %d %s", reason.Count, reason.Status, reason.Slug)
	}
	return strings.Join(texts, ",")
}
