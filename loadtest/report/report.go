// Package report shows a proof: as a table in a terminal, and as a page with charts
// that loads no other file. It adds no verdict to the proof's.
package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"flashsale/loadtest/proof"
)

// columns are the columns of the table and of the page.
var columns = []string{
	"strategy", "on sale", "sold", "oversold", "lost", "accepted", "sold out", "errors", "ambiguous",
	"offered/s", "p50 ms", "p99 ms", "verdict",
}

// cells are the cells of a run, in the order of columns.
func cells(r *proof.Run) []string {
	// One column for all of these; out/proof.json has each.
	lost := r.Lost + r.Duplicated + r.Unexplained + r.LimitExceeded
	return []string{
		name(r), comma(r.Stock), comma(r.UnitsSold), comma(r.Oversold), comma(lost),
		comma(r.Accepted), comma(r.SoldOut), comma(r.Errors), comma(r.Ambiguous),
		fmt.Sprintf("%.0f of %d", r.AchievedRate, r.Rate),
		fmt.Sprintf("%.1f", r.Latency.P50), fmt.Sprintf("%.1f", r.Latency.P99), string(r.Verdict),
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
		if len(r.Reasons) > 0 {
			list = append(list, name(r)+": other answers: "+reasons(r)+".")
		}
		for _, example := range r.Examples {
			list = append(list, name(r)+": "+example+".")
		}
	}
	return list
}

func behind(r *proof.Run) string {
	why := "the machine was too slow; lower --rate for reliable figures"
	if r.Saturated {
		why = fmt.Sprintf("all %s concurrent requests of the harness were waiting for the service", comma(r.PeakUnderWay))
	}
	return fmt.Sprintf("%s: the harness sent %.0f of %d requests a second, under 95 %%: %s.", name(r), r.AchievedRate, r.Rate, why)
}

func reasons(r *proof.Run) string {
	text := ""
	for i, reason := range r.Reasons {
		if i > 0 {
			text += ", "
		}
		text += comma(reason.Count) + " x "
		if reason.Status > 0 {
			text += fmt.Sprint(reason.Status, " ")
		}
		text += reason.Slug
	}
	return text
}

func name(r *proof.Run) string {
	if r.Strategy == "" {
		return "the service"
	}
	return r.Strategy
}

func comma[N int | int64](n N) string { return proof.Comma(n) }

// Table writes the proof for a terminal.
func Table(w io.Writer, p *proof.Proof) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", Grid("", columns, rows(p), 1, 1))
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
