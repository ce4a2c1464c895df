package report

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

// The files that Save writes.
const (
	ProofFile = "proof.json"
	PageFile  = "report.html"
)

// Save writes the proof and its page into dir, and creates dir if necessary.
func Save(dir string, p *proof.Proof) error {
	return SaveBoth(dir, ProofFile, p, PageFile, func(w io.Writer) error { return Page(w, p) })
}

// SaveBoth writes a result as JSON and as a page into dir, as Replace does.
func SaveBoth(dir, jsonFile string, result any, pageFile string, page func(io.Writer) error) error {
	if err := SaveJSON(filepath.Join(dir, jsonFile), result, 0o644); err != nil {
		return err
	}
	return WritePage(filepath.Join(dir, pageFile), page)
}

// WritePage writes a page into a file, as Replace does.
func WritePage(path string, page func(io.Writer) error) error {
	var html bytes.Buffer
	if err := page(&html); err != nil {
		return err
	}
	if err := Replace(path, html.Bytes(), 0o644); err != nil {
		return fmt.Errorf("save %s: %w", path, err)
	}
	return nil
}

var layout = NewLayout(assets, "assets/proof.html")

// bar shows a run's units sold and on sale, in percent of the track.
type bar struct {
	Name         string
	Verdict      strategy.Verdict
	Within, Over float64
	// Line is at the units on sale.
	Line        float64
	Text, Label string
}

type page struct {
	Proof            *proof.Proof
	Bars             []bar
	Sentences, Notes []string
	Facts            []string
	HasSamples       bool
	Columns          []string
	Rows             [][]string
}

// Page writes the proof as one HTML page that loads no other file.
func Page(w io.Writer, p *proof.Proof) error {
	view := page{
		Proof: p, Bars: bars(p), Sentences: sentences(p), Notes: notes(p), Facts: facts(p), Columns: columns, Rows: rows(p),
	}
	for i := range p.Runs {
		view.HasSamples = view.HasSamples || len(p.Runs[i].Samples) > 0
	}
	head := Head{Kind: "load proof", Verdict: Conclusion(p), Good: p.Proven, Foot: fmt.Sprintf("Seed %d.", p.Seed), File: ProofFile}
	if p.Database != "" {
		head.Foot = p.Database + ". " + head.Foot
	}
	head.Title, head.Lead = heading(p)
	return layout.Write(w, head, p, view)
}

func heading(p *proof.Proof) (title, lead string) {
	if len(p.Runs) == 0 {
		return "No run", "No service was attacked."
	}
	r := &p.Runs[0]
	skus := "one SKU"
	if r.SKUs > 1 {
		skus = fmt.Sprintf("%d SKUs", r.SKUs)
	}
	title = fmt.Sprintf("%s on sale on %d replicas", skus, r.Replicas)
	if r.Replicas == 1 {
		title = skus + " on sale on one replica"
	}
	compared := "its order in the service's records"
	if p.Partial {
		compared = "the order that the service returns"
	}
	lead = fmt.Sprintf("%s buyers a second sent one request each, to the replicas in turn. "+
		"Afterwards every answer was compared with %s.", comma(r.Rate), compared)
	return strings.ToUpper(title[:1]) + title[1:], lead
}

// bars have one scale, in which the units on sale of each run have the same length.
func bars(p *proof.Proof) []bar {
	most := 1.0 // the longest bar, in units on sale
	for i := range p.Runs {
		most = max(most, ratio(p.Runs[i].UnitsSold, p.Runs[i].Stock))
	}
	const margin = 1.03 // keeps the line of an exact run off the edge
	scale := 100 / (most * margin)
	list := make([]bar, len(p.Runs))
	for i := range p.Runs {
		r := &p.Runs[i]
		b := bar{
			Name: r.Name(), Verdict: r.Verdict, Line: scale,
			Within: scale * min(1, ratio(r.UnitsSold, r.Stock)), Over: scale * max(0, ratio(r.UnitsSold, r.Stock)-1),
			Text: fmt.Sprintf("%s of %s", comma(r.UnitsSold), comma(r.Stock)),
		}
		b.Label = fmt.Sprintf("%s: sold %s units on sale", b.Name, b.Text)
		list[i] = b
	}
	return list
}

func ratio(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}
