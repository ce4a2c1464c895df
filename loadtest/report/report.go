// Package report shows a proof: as a table in a terminal, and as a page with charts
// that loads no other file. It adds no verdict to the proof's.
package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// columns are the columns of the table and of the page.
var columns = []string{
	"strategy", "on sale", "sold", "oversold", "lost", "accepted", "sold out", "errors", "ambiguous",
	"offered/s", "p50 ms", "p99 ms", "max ms", "verdict",
}

// cells are the cells of a run, in the order of columns.
func cells(r *proof.Run) []string {
	// One column for all of these; out/proof.json has each.
	lost := r.Lost + r.Duplicated + r.Unexplained + r.LimitExceeded + r.Misstated
	return []string{
		r.Name(), comma(r.Stock), comma(r.UnitsSold), comma(r.Oversold), comma(lost),
		comma(r.Accepted), comma(r.SoldOut), comma(r.Errors), comma(r.Ambiguous),
		fmt.Sprintf("%.0f of %d", r.AchievedRate, r.Rate),
		fmt.Sprintf("%.1f", r.Latency.P50), fmt.Sprintf("%.1f", r.Latency.P99), fmt.Sprintf("%.1f", r.Latency.Max),
		string(r.Verdict),
	}
}

func rows(p *proof.Proof) [][]string {
	list := make([][]string, len(p.Runs))
	for i := range p.Runs {
		list[i] = cells(&p.Runs[i])
	}
	return list
}

func sentences(p *proof.Proof) []string {
	list := make([]string, len(p.Runs))
	for i := range p.Runs {
		list[i] = p.Runs[i].Sentence()
	}
	return list
}

func notes(p *proof.Proof) []string {
	var list []string
	if p.Partial {
		list = append(list, "Partial: the database was not read. Each promised order was read back through the service instead. "+
			"Orders whose answer was lost are not included.")
	}
	for i := range p.Runs {
		r := &p.Runs[i]
		if r.Behind() {
			list = append(list, behind(r))
		}
		if r.Verdict == strategy.Exact && r.Strategy == "" && len(r.AnsweredBy) < 2 {
			list = append(list, fmt.Sprintf("All answers are of %s. The verdict says nothing about several replicas; if there are several, name each with --target.", answeredBy(r)))
		}
		if len(r.Reasons) > 0 {
			list = append(list, r.Name()+": other answers: "+reasons(r.Reasons)+".")
		}
		for _, c := range r.Calls {
			if c.Call != attack.Place.String() && len(c.Reasons) > 0 {
				list = append(list, fmt.Sprintf("%s: other answers to %s: %s.", r.Name(), c.Call, reasons(c.Reasons)))
			}
		}
		examples := r.Examples
		if r.Challenge != nil {
			examples = slices.Concat(examples, r.Challenge.Examples)
		}
		for _, example := range examples {
			list = append(list, r.Name()+": "+example+".")
		}
	}
	return list
}

// facts say what was attacked and when, who answered, and how long buyers waited for
// orders and for refusals.
func facts(p *proof.Proof) []string {
	var list []string
	for i := range p.Runs {
		r := &p.Runs[i]
		list = append(list, fmt.Sprintf("%s: %s, from %s for %.1f s; answers of %s", r.Name(), strings.Join(r.Targets, ", "),
			r.Started.Format(time.RFC3339), r.DurationMS/1e3, answeredBy(r)))
		list = append(list, fmt.Sprintf("%s: orders %s; refusals %s", r.Name(), waits(r.AcceptedLatency), waits(r.RefusedLatency)))
		for _, c := range r.Calls {
			list = append(list, fmt.Sprintf("%s: %s requests of %s, %s errors, %s ambiguous: %s", r.Name(), comma(c.Offered), c.Call, comma(c.Errors), comma(c.Ambiguous), waits(c.Latency)))
		}
		for _, t := range r.Thresholds {
			list = append(list, fmt.Sprintf("%s: threshold %s", r.Name(), t))
		}
	}
	return list
}

func answeredBy(r *proof.Run) string {
	var list []string
	for _, replica := range r.AnsweredBy {
		list = append(list, fmt.Sprintf("%s (%s)", cmp.Or(replica.Name, "a replica without X-Replica"), comma(replica.Answers)))
	}
	return cmp.Or(strings.Join(list, ", "), "no replica")
}

func waits(l proof.Latency) string {
	return fmt.Sprintf("p50 %.1f, p95 %.1f, p99 %.1f, max %.1f ms", l.P50, l.P95, l.P99, l.Max)
}

func behind(r *proof.Run) string {
	why := "the machine was too slow; lower --rate for reliable figures"
	if r.Saturated {
		why = fmt.Sprintf("all %s concurrent requests of the harness were waiting for the service", comma(r.PeakUnderWay))
	}
	return fmt.Sprintf("%s: the harness sent %.0f of %d requests a second, under 95 %%: %s.", r.Name(), r.AchievedRate, r.Rate, why)
}

func reasons(of []proof.Reason) string {
	var list []string
	for _, reason := range of {
		list = append(list, reason.String())
	}
	return strings.Join(list, ", ")
}

func comma[N int | int64](n N) string { return proof.Comma(n) }

// Table writes the proof for a terminal.
func Table(w io.Writer, p *proof.Proof) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", Grid("", columns, rows(p), 1, 1))
	for _, f := range facts(p) {
		fmt.Fprintln(&b, f)
	}
	fmt.Fprintln(&b)
	for _, s := range sentences(p) {
		fmt.Fprintln(&b, s)
	}
	for _, n := range notes(p) {
		fmt.Fprintln(&b, "Note:", n)
	}
	fmt.Fprintf(&b, "\n%s\n", Conclusion(p))
	_, err := io.WriteString(w, b.String())
	return err
}

// Comparison writes the differences from an earlier proof.
func Comparison(w io.Writer, file string, before, after *proof.Proof) error {
	list, notes := proof.Compare(before, after)
	var b strings.Builder
	if len(list) > 0 {
		var rows [][]string
		for _, d := range list {
			change := "-"
			if d.Before != 0 {
				change = fmt.Sprintf("%+.0f %%", 100*(d.After-d.Before)/d.Before)
			}
			rows = append(rows, []string{d.Run, d.Figure, fmt.Sprintf("%.1f", d.Before), fmt.Sprintf("%.1f", d.After), change, d.Mark})
		}
		fmt.Fprintf(&b, "%s\n", Grid("Compared with "+file, []string{"run", "figure", "before", "now", "change", ""}, rows, 2, 1))
	}
	for _, n := range notes {
		fmt.Fprintf(&b, "Note: %s.\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Grid draws a table for a terminal. The first and last few columns are left-aligned.
func Grid(title string, columns []string, rows [][]string, first, last int) string {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.SetTitle("%s", title)
	var configs []table.ColumnConfig
	for i := first; i < len(columns)-last; i++ {
		configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(row(columns))
	for _, cells := range rows {
		t.AppendRow(row(cells))
	}
	return t.Render()
}

func row(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		r[i] = c
	}
	return r
}

// Conclusion says in one line whether the proof succeeded.
func Conclusion(p *proof.Proof) string {
	if p.Proven {
		return "Proven: every run had the expected verdict."
	}
	wrong := 0
	for _, r := range p.Runs {
		if r.Verdict != r.Expected {
			wrong++
		}
	}
	return fmt.Sprintf("Not proven: %d of %d runs did not have the expected verdict.", wrong, len(p.Runs))
}
