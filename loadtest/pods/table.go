package pods

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"flashsale/loadtest/report"
)

// Write writes the result for a terminal.
func (r *Result) Write(w io.Writer) error {
	var rows [][]string
	for i := range r.Sales {
		s := &r.Sales[i]
		noSale := "-"
		if s.During != "" {
			noSale = fmt.Sprintf("%.2f", s.NoSaleMS/1e3)
		}
		verdict := string(s.Verdict)
		if len(s.Violations) > 0 {
			verdict = "VIOLATIONS"
		}
		rows = append(rows, []string{
			s.Strategy, cmp.Or(s.During, "sold out"), fmt.Sprint(s.Offered), fmt.Sprint(s.UnitsSold), fmt.Sprint(s.Oversold), fmt.Sprint(s.SoldOut),
			fmt.Sprint(s.Errors + s.Ambiguous), noSale, fmt.Sprintf("%.1f", s.Latency.P99), verdict,
		})
	}
	columns := []string{"strategy", "what happened", "offered", "sold", "oversold", "sold out", "503, 504", "no sale, s", "p99 ms", "verdict"}
	audit := "found nothing"
	if !r.Audit {
		audit = "FOUND A VIOLATION"
	}
	_, err := fmt.Fprintf(w, "\n%s\n\n%s\n%s\nThe node was ready after %.1f s, the service %.1f s later; all of it took %.0f s. Its control plane has %.2f GB. The audit's CronJob %s.\n",
		report.Grid("", columns, rows, 2, 1), r.Database, strings.TrimRight(r.StockLocks, "\n"), r.NodeReadyMS/1e3, r.ServiceReadyMS/1e3, r.TookMS/1e3,
		float64(r.ControlPlane())/1e9, audit)
	return err
}
