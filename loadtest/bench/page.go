package bench

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"strings"

	"flashsale/loadtest/report"
)

//go:embed assets
var assets embed.FS

var pageTemplate = template.Must(template.ParseFS(assets, "assets/bench.html"))

// The files that Save writes.
const (
	ResultFile = "bench.json"
	PageFile   = "bench.html"
)

// Save writes the result and its page into dir, which is made if need be.
func Save(dir string, r *Result) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("save the bench: %w", err)
	}
	var page bytes.Buffer
	if err := Page(&page, r); err != nil {
		return err
	}
	if err := report.Replace(filepath.Join(dir, ResultFile), append(data, '\n')); err != nil {
		return fmt.Errorf("save the bench: %w", err)
	}
	if err := report.Replace(filepath.Join(dir, PageFile), page.Bytes()); err != nil {
		return fmt.Errorf("save the bench's page: %w", err)
	}
	return nil
}

// view is what the page shows.
type view struct {
	report.Kit
	BenchCSS template.CSS
	BenchJS  template.JS
	Result   *Result
	Verdict  string
	Remarks  []string
	Columns  []string
	Parts    []viewPart
	Curves   []curves
}

// viewPart is a setting with a bar and a row for each peer.
type viewPart struct {
	Title string
	Index int // of its curves
	Bars  []bar
	Rows  [][]string
}

// bar is a peer's throughput, as a share of the fastest's in the setting, and
// where its rounds lie.
type bar struct {
	Name, Text string
	Durable    bool
	Wrong      string // the verdict, where it is not the expected one
	Width      float64
	Dots       []float64
}

// curves are the latencies of one setting, a line for each peer: the last
// round's.
type curves struct {
	Title string `json:"title"`
	Lines []line `json:"lines"`
}

type line struct {
	Name   string      `json:"name"`
	Points [][]float64 `json:"points"` // share, milliseconds
}

// Page writes the result as one HTML page, with everything that it needs inside.
func Page(w io.Writer, r *Result) error {
	kit, err := report.NewKit()
	if err != nil {
		return err
	}
	css, err := assets.ReadFile("assets/bench.css")
	if err != nil {
		return err
	}
	js, err := assets.ReadFile("assets/bench.js")
	if err != nil {
		return err
	}
	v := view{
		Kit: kit, BenchCSS: template.CSS(css), BenchJS: template.JS(js), Result: r,
		Verdict: r.Conclusion(), Remarks: r.remarks(), Columns: columns, Curves: []curves{},
	}
	for i, p := range r.parts() {
		title := p.Setting.String()
		v.Parts = append(v.Parts, viewPart{Title: strings.ToUpper(title[:1]) + title[1:], Index: i, Bars: r.bars(p), Rows: rows(p)})
		v.Curves = append(v.Curves, r.curves(p))
	}
	if err := pageTemplate.Execute(w, v); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

func rows(p part) [][]string {
	list := make([][]string, len(p.Medians))
	for i, m := range p.Medians {
		list[i] = m.cells()
	}
	return list
}

func (r *Result) bars(p part) []bar {
	most := 1.0
	for _, m := range p.Medians {
		most = max(most, m.Most)
	}
	list := make([]bar, len(p.Medians))
	for i, m := range p.Medians {
		b := bar{Name: m.Peer, Durable: m.Durable, Width: 100 * m.Served / most, Text: comma(m.Served) + "/s"}
		for j := range r.Runs {
			run := &r.Runs[j]
			if run.Strategy == m.Peer && run.setting() == m.Setting {
				b.Dots = append(b.Dots, 100*run.Served/most)
				if run.Verdict != run.Expected {
					b.Wrong = string(run.Verdict)
				}
			}
		}
		list[i] = b
	}
	return list
}

func (r *Result) curves(p part) curves {
	c := curves{Title: p.Setting.String(), Lines: []line{}}
	for _, m := range p.Medians {
		var last *Run
		for i := range r.Runs {
			if r.Runs[i].Strategy == m.Peer && r.Runs[i].setting() == m.Setting {
				last = &r.Runs[i]
			}
		}
		l := line{Name: m.Peer, Points: [][]float64{}}
		for _, point := range last.Curve {
			l.Points = append(l.Points, []float64{point.Share, point.MS})
		}
		c.Lines = append(c.Lines, l)
	}
	return c
}
