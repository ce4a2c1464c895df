package report

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"flashsale/loadtest/proof"
)

// Table writes the proof for a terminal: the figures, a sentence on each run,
// and the conclusion.
func Table(w io.Writer, p *proof.Proof) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	head := make(table.Row, len(columns))
	var configs []table.ColumnConfig
	for i, c := range columns {
		head[i] = c
		if i > 0 && i < len(columns)-1 {
			configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(head)
	for i := range p.Runs {
		row := make(table.Row, 0, len(columns))
		for _, c := range cells(&p.Runs[i]) {
			row = append(row, c)
		}
		t.AppendRow(row)
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", t.Render()); err != nil {
		return err
	}
	for _, s := range sentences(p) {
		if _, err := fmt.Fprintln(w, s); err != nil {
			return err
		}
	}
	for _, n := range notes(p) {
		if _, err := fmt.Fprintln(w, "Note:", n); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", Conclusion(p))
	return err
}

// Conclusion is whether the proof succeeded, in a line.
func Conclusion(p *proof.Proof) string {
	if p.Proven {
		return "Proven: every run came out as it must."
	}
	missed := 0
	for _, r := range p.Runs {
		if r.Verdict != r.Expected {
			missed++
		}
	}
	return fmt.Sprintf("Not proven: %d of %d runs did not come out as they must.", missed, len(p.Runs))
}
