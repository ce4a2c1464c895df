package soak

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/text"

	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// Table writes the calls with their outcomes, then the violations.
func Table(w io.Writer, r *Result) error {
	const columns = 100
	var rows [][]string
	for i := 0; i < len(r.Calls); {
		call, total := r.Calls[i].Call, 0
		var parts []string
		for ; i < len(r.Calls) && r.Calls[i].Call == call; i++ {
			total += r.Calls[i].Count
			parts = append(parts, fmt.Sprintf("%s x %s", proof.Comma(r.Calls[i].Count), r.Calls[i].Outcome))
		}
		rows = append(rows, []string{call, proof.Comma(total), text.WrapSoft(strings.Join(parts, ", "), columns)})
	}
	if _, err := fmt.Fprintln(w, report.Grid("", []string{"call", "times", "answers"}, rows, 1, 1)); err != nil {
		return err
	}
	for _, v := range r.Violations {
		fmt.Fprintf(w, "\nBroken: %s\n  %s\n", v.Invariant, v.Detail)
		if v.World != "" {
			fmt.Fprintf(w, "  in %s, whose last calls were:\n    %s\n", v.World, strings.Join(v.Calls, "\n    "))
		}
	}
	_, err := fmt.Fprintf(w, "\n%s orders in %s worlds on %d replicas in %.0f s; %d kills, %d stops; %d worlds ended early because a change of the SKU had no answer.\n",
		proof.Comma(r.Orders), proof.Comma(r.Worlds), r.Replicas, r.Seconds, r.Kills, r.Pauses, r.Uncertain)
	return err
}
