package bench

import (
	"embed"
	"fmt"
	"io"

	"flashsale/loadtest/report"
)

//go:embed assets
var assets embed.FS

var layout = report.NewLayout(assets, "assets/bench.html")

// The files that Save writes.
const (
	ResultFile = "bench.json"
	PageFile   = "bench.html"
)

// Save writes the result and its page into dir, and creates dir if necessary.
func Save(dir string, r *Result) error {
	return report.SaveBoth(dir, ResultFile, r, PageFile, func(w io.Writer) error { return Page(w, r) })
}

type view struct {
	Result  *Result
	Remarks []string
	Parts   []viewPart
	Curves  [][]line
}

// viewPart shows a setting, with a bar and a row for each peer.
type viewPart struct {
	Title   string
	Index   int // of its curves
	Bars    []bar
	Columns []string
	Rows    [][]string
}

// bar shows a peer's throughput and its rounds, in percent of the fastest round.
type bar struct {
	Name, Text string
	Durable    bool
	Wrong      string // an unexpected verdict
	Width      float64
	Dots       []float64
}

// line is the latency of a peer in its last round.
type line struct {
	Name   string      `json:"name"`
	Points [][]float64 `json:"points"` // share, milliseconds
}

// Page writes the result as one HTML page that loads no other file.
func Page(w io.Writer, r *Result) error {
	v := view{Result: r, Remarks: r.remarks(), Curves: [][]line{}}
	for i, p := range r.parts() {
		bars, lines := r.charts(p)
		v.Parts = append(v.Parts, viewPart{Title: p.Setting.String(), Index: i, Bars: bars, Columns: columns, Rows: p.rows()})
		v.Curves = append(v.Curves, lines)
	}
	return layout.Write(w, report.Head{
		Kind: "bench", Title: "The cost of an order in different designs",
		Lead: "All peers have the same router, middleware and JSON, and take turns under the same load on the same machine. " +
			"Each bar is the median of the rounds. Each dot is a round.",
		Verdict: r.Conclusion(), Good: r.Proven, Foot: fmt.Sprintf("Seed %d.", r.Seed), File: ResultFile,
	}, r, v)
}

// charts are the bars and the latencies of a setting's peers.
func (r *Result) charts(p part) (bars []bar, lines []line) {
	most := 1.0
	for _, m := range p.Medians {
		most = max(most, m.Most)
	}
	for _, m := range p.Medians {
		b := bar{Name: m.Peer, Durable: m.Durable, Width: 100 * m.Served / most, Text: comma(m.Served) + "/s"}
		l := line{Name: m.Peer}
		for i := range r.Runs {
			run := &r.Runs[i]
			if run.Strategy != m.Peer || run.setting() != m.Setting {
				continue
			}
			b.Dots = append(b.Dots, 100*run.Served/most)
			if run.Verdict != run.Expected {
				b.Wrong = string(run.Verdict)
			}
			l.Points = [][]float64{}
			for _, point := range run.Curve {
				l.Points = append(l.Points, []float64{point.Share, point.MS})
			}
		}
		bars, lines = append(bars, b), append(lines, l)
	}
	return bars, lines
}
