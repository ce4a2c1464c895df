package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"flashsale/loadtest/proof"
	"flashsale/loadtest/report"
)

// columns are the columns of the tables, in the terminal and on the page.
var columns = []string{
	"peer", "durable", "served/s", "least - most", "of noop", "p50 ms", "p99 ms",
	"µs: replicas", "mysql", "etcd", "redis", "harness", "MiB: replica", "how", "verdict",
}

// cells are the cells of a median, in the order of columns.
func (m *Median) cells() []string {
	figure := func(from map[string]float64, name string) string {
		if v, ok := from[name]; ok {
			return fmt.Sprintf("%.1f", v)
		}
		return "-"
	}
	ratio, durable := "-", "no"
	if m.RatioToNoop > 0 {
		ratio = fmt.Sprintf("%.3f", m.RatioToNoop)
	}
	if m.Durable {
		durable = "yes"
	}
	how := []string{fmt.Sprintf("%d workers", m.Workers)}
	if m.Open {
		how[0] = comma(float64(m.Rate)) + "/s offered"
	}
	if m.How != "" {
		how = append(how, m.How)
	}
	return []string{
		m.Peer, durable, comma(m.Served), comma(m.Least) + " - " + comma(m.Most), ratio,
		fmt.Sprintf("%.1f", m.Latency.P50), fmt.Sprintf("%.1f", m.Latency.P99),
		figure(m.CPU, "replicas"), figure(m.CPU, "mysql"), figure(m.CPU, "etcd"), figure(m.CPU, "redis"), figure(m.CPU, "harness"),
		figure(m.RSS, "replicas"), strings.Join(how, ", "), string(m.Verdict),
	}
}

type part struct {
	Setting Setting
	Medians []*Median
}

func (r *Result) parts() []part {
	var list []part
	for i := range r.Medians {
		m := &r.Medians[i]
		at := slices.IndexFunc(list, func(p part) bool { return p.Setting == m.Setting })
		if at < 0 {
			at = len(list)
			list = append(list, part{Setting: m.Setting})
		}
		list[at].Medians = append(list[at].Medians, m)
	}
	return list
}

func (p part) rows() [][]string {
	list := make([][]string, len(p.Medians))
	for i, m := range p.Medians {
		list[i] = m.cells()
	}
	return list
}

// Table writes the result for a terminal.
func Table(w io.Writer, r *Result) error {
	var b strings.Builder
	for _, p := range r.parts() {
		fmt.Fprintf(&b, "%s\n\n", report.Grid(p.Setting.String(), columns, p.rows(), 2, 2))
	}
	for _, line := range r.remarks() {
		fmt.Fprintln(&b, line)
	}
	for _, g := range r.Goals {
		fmt.Fprintln(&b, g)
	}
	fmt.Fprintf(&b, "\n%s\n", r.Conclusion())
	_, err := io.WriteString(w, b.String())
	return err
}

// String formats the goal: "met     0.86  etcd by noop, hot SKU (at least 0.8)".
func (g Goal) String() string {
	met, bound := "missed", "at least"
	if g.Met {
		met = "met"
	}
	if g.AtMost {
		bound = "at most"
	}
	return fmt.Sprintf("%-7s %6.2f  %s (%s %g)", met, g.Got, g.What, bound, g.Bound)
}

// remarks describe the method, the unexpected verdicts and other problems.
func (r *Result) remarks() []string {
	list := []string{
		fmt.Sprintf("All figures are medians of the rounds, after the warm-up. CPU is in microseconds for each answer. "+
			"%s, %d cores (shared with the load generator), %.0f GiB, Linux %s, %s.", r.Machine.CPU, r.Machine.Cores, r.Machine.MemoryGiB, r.Machine.Kernel, r.Machine.Go),
		"MySQL: " + settings(r.MySQL) + ".",
		"noop stores nothing, so that its runs cannot be checked. redis-lua is not durable. All other runs were audited.",
	}
	if r.MySQLBinlog != nil {
		list = append(list, "MySQL with a binlog: "+settings(r.MySQLBinlog)+".")
	}
	for i := range r.Runs {
		run := &r.Runs[i]
		if run.Behind() {
			list = append(list, fmt.Sprintf("%s, %s, round %d: the harness sent %.0f of %d requests a second.",
				run.Strategy, run.setting(), run.Round, run.AchievedRate, run.Rate))
		}
		if run.Verdict == run.Expected {
			continue
		}
		remark := fmt.Sprintf("%s, %s, round %d: %s, expected %s.", run.Strategy, run.setting(), run.Round, run.Verdict, run.Expected)
		for _, reason := range run.Reasons {
			remark += fmt.Sprintf(" %d x %d %s.", reason.Count, reason.Status, reason.Slug)
		}
		for _, example := range run.Examples {
			remark += " " + example + "."
		}
		list = append(list, remark)
	}
	return append(list, r.Notes...)
}

func settings(of map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, name+"="+of[name])
	}
	return strings.Join(parts, " ")
}

// Conclusion says in one line whether all runs had the expected verdict.
func (r *Result) Conclusion() string {
	wrong := 0
	for i := range r.Runs {
		if r.Runs[i].Verdict != r.Runs[i].Expected {
			wrong++
		}
	}
	if r.Proven {
		return fmt.Sprintf("All %d runs were exact. The bench took %.0f s.", len(r.Runs), r.Took)
	}
	return fmt.Sprintf("%d of %d runs did not have the expected verdict.", wrong, len(r.Runs))
}

func comma(v float64) string { return proof.Comma(int64(v + 0.5)) }
