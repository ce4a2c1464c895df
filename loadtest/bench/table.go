package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// columns are those of the terminal's tables and of the page's.
var columns = []string{
	"peer", "durable", "served/s", "least - most", "of noop", "p50 ms", "p99 ms",
	"µs: replicas", "mysql", "etcd", "redis", "harness", "MiB: replica", "how", "verdict",
}

// cells are a median's, in the order of columns.
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

// part is the medians of one setting.
type part struct {
	Setting Setting
	Medians []*Median
}

// parts are in the order in which they first ran.
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

// Table writes the result for a terminal.
func Table(w io.Writer, r *Result) error {
	var b strings.Builder
	for _, p := range r.parts() {
		t := table.NewWriter()
		t.SetStyle(table.StyleLight)
		t.Style().Format.Header = text.FormatDefault
		t.SetTitle("%s", p.Setting)
		head := make(table.Row, len(columns))
		var configs []table.ColumnConfig
		for i, c := range columns {
			head[i] = c
			if i > 1 && i < len(columns)-2 {
				configs = append(configs, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight})
			}
		}
		t.SetColumnConfigs(configs)
		t.AppendHeader(head)
		for _, m := range p.Medians {
			row := make(table.Row, 0, len(columns))
			for _, c := range m.cells() {
				row = append(row, c)
			}
			t.AppendRow(row)
		}
		fmt.Fprintf(&b, "%s\n\n", t.Render())
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

// String is for people: "met     0.86  etcd by noop, hot SKU (at least 0.8)".
func (g Goal) String() string {
	met, bound := "missed", "at least"
	if g.Met {
		met = "met"
	}
	if g.AtMost {
		bound = "at most"
	}
	return fmt.Sprintf("%-7s %6.2f  %s (%s %g)", met, g.Got, g.What, bound, g.Wanted)
}

// remarks are what a reader should know of how it was measured, and what is not
// as it should be.
func (r *Result) remarks() []string {
	list := []string{
		fmt.Sprintf("Medians of the rounds, of the time after the warm-up. CPU is in microseconds an answer. "+
			"%s, %d cores (shared with the load), %.0f GiB, Linux %s, %s.", r.Machine.CPU, r.Machine.Cores, r.Machine.MemoryGiB, r.Machine.Kernel, r.Machine.Go),
		"MySQL: " + settings(r.MySQL) + ".",
		"noop stores nothing, and nothing of it can be checked. redis-lua is not durable. Every other run was audited.",
	}
	if r.MySQLBinlog != nil {
		list = append(list, "MySQL with a binlog: "+settings(r.MySQLBinlog)+".")
	}
	for i := range r.Runs {
		run := &r.Runs[i]
		if run.Behind() {
			list = append(list, fmt.Sprintf("%s, %s, round %d: %.0f requests a second were offered of the %d asked for.",
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

// Conclusion is whether all is as it must be, in a line.
func (r *Result) Conclusion() string {
	wrong := 0
	for i := range r.Runs {
		if r.Runs[i].Verdict != r.Runs[i].Expected {
			wrong++
		}
	}
	if r.Proven {
		return fmt.Sprintf("All %d runs were exact, in %.0f s.", len(r.Runs), r.Took)
	}
	return fmt.Sprintf("%d of %d runs were not as they must be.", wrong, len(r.Runs))
}

func comma(v float64) string { return humanize.Comma(int64(v + 0.5)) }
