package soak

import (
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
)

// Table writes the calls with their outcomes, then the violations.
func Table(w io.Writer, r *Result) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = 0 // keep the case
	t.AppendHeader(table.Row{"call", "times", "answers"})
	const columns = 100
	for i := 0; i < len(r.Calls); {
		call, total := r.Calls[i].Call, 0
		var lines []string
		line := ""
		for ; i < len(r.Calls) && r.Calls[i].Call == call; i++ {
			total += r.Calls[i].Count
			part := fmt.Sprintf("%s x %s", humanize.Comma(int64(r.Calls[i].Count)), r.Calls[i].Outcome)
			if line != "" && len(line)+len(part) > columns {
				lines, line = append(lines, line+","), part
				continue
			}
			line = strings.TrimPrefix(line+", "+part, ", ")
		}
		t.AppendRow(table.Row{call, humanize.Comma(int64(total)), strings.Join(append(lines, line), "\n")})
	}
	if _, err := fmt.Fprintln(w, t.Render()); err != nil {
		return err
	}
	for _, v := range r.Violations {
		fmt.Fprintf(w, "\nBroken: %s\n  %s\n", v.Invariant, v.Detail)
		if v.World != "" {
			fmt.Fprintf(w, "  in %s, whose last calls were:\n    %s\n", v.World, strings.Join(v.Calls, "\n    "))
		}
	}
	_, err := fmt.Fprintf(w, "\n%s orders in %s worlds on %d replicas in %.0f s; %d kills, %d stops; %d worlds ended early because a change of the SKU had no answer.\n",
		humanize.Comma(int64(r.Orders)), humanize.Comma(int64(r.Worlds)), r.Replicas, r.Seconds, r.Kills, r.Pauses, r.Uncertain)
	return err
}
