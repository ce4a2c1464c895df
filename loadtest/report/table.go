package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"flashsale/loadtest/proof"
)

// Table writes the proof for a terminal: the figures, a sentence for each run, the
// notes and the conclusion.
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

// Grid draws a table for a terminal. All columns are aligned right, except for the
// first and the last few.
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
