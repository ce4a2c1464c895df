package takeover

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Figures are what was measured.
type Figures struct {
	Command string   `json:"command"`
	Date    string   `json:"date"`
	Machine string   `json:"machine"`
	Runs    []Result `json:"runs"`
	// MedianMS and MaxMS are by fault: of the time without a sale where the seller
	// was killed or stopped, and of the longest wait of a buyer where it was parted
	// from others.
	MedianMS map[string]float64 `json:"median_ms"`
	MaxMS    map[string]float64 `json:"max_ms"`
	// OK: in every run each buyer got a right answer, and each answer has its row.
	// It says nothing of times.
	OK bool `json:"ok"`
	// GoalMet: no figure is larger than the product's goal.
	GoalMet bool `json:"goal_met"`
}

// Add takes another run in.
func (f *Figures) Add(r Result) {
	f.Runs = append(f.Runs, r)
	f.MedianMS, f.MaxMS = map[string]float64{}, map[string]float64{}
	f.OK, f.GoalMet = true, true
	for _, row := range f.rows() {
		f.MedianMS[row.fault.Name], f.MaxMS[row.fault.Name] = row.median, row.most
		f.OK = f.OK && row.wrong == 0
		f.GoalMet = f.GoalMet && row.goalMet()
	}
}

// row is all runs of one fault.
type row struct {
	fault        *Fault
	median, most float64
	runs, errors int
	wrong        int // runs that are not OK
}

func (f *Figures) rows() []row {
	var rows []row
	for i := range faults {
		row := row{fault: &faults[i]}
		var all []float64
		for i := range f.Runs {
			r := &f.Runs[i]
			if r.Fault != row.fault.Name {
				continue
			}
			all = append(all, row.fault.figure(r))
			row.runs++
			row.errors += r.Errors
			if !r.OK() {
				row.wrong++
			}
		}
		if row.runs > 0 {
			slices.Sort(all)
			row.median, row.most = all[len(all)/2], all[len(all)-1]
			rows = append(rows, row)
		}
	}
	return rows
}

func (r *row) goalMet() bool {
	within := func(figure float64, bound time.Duration) bool { return bound == 0 || figure <= ms(bound) }
	return within(r.median, r.fault.median) && within(r.most, r.fault.most)
}

// goal is the bounds in words, and whether they hold.
func (r *row) goal() string {
	bounds := fmt.Sprint("max ", r.fault.most)
	if r.fault.median > 0 {
		bounds = fmt.Sprint("median ", r.fault.median, ", ", bounds)
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

// Table writes the figures for a terminal.
func (f *Figures) Table(w io.Writer) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(table.Row{"fault", "runs", "measured", "median ms", "max ms", "goal", "errors", "verdict"})
	for _, r := range f.rows() {
		t.AppendRow(table.Row{r.fault.Name, r.runs, r.fault.measured, fmt.Sprintf("%.0f", r.median), fmt.Sprintf("%.0f", r.most), r.goal(), r.errors, r.verdict()})
	}
	_, err := fmt.Fprintln(w, t.Render())
	return err
}

// String is the run in a line.
func (r *Result) String() string {
	verdict := string(r.Verdict)
	if r.Wrong > 0 {
		verdict += fmt.Sprintf(", %d WRONG answers", r.Wrong)
	}
	reasons := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		reasons[i] = fmt.Sprintf(" %dx %d %s", reason.Count, reason.Status, reason.Slug)
	}
	line := fmt.Sprintf("%-8s %-10s no sale for %6.0f ms, longest wait %6.0f ms, %d sold, %d errors%s: %s",
		r.Fault, r.Seller, r.GapMS, r.WaitMS, r.Sold, r.Errors, strings.Join(reasons, ","), verdict)
	return strings.Join(append([]string{line}, r.Examples...), "\n  ")
}
