package report

import (
	"embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

//go:embed assets
var assets embed.FS

var pageTemplate = template.Must(template.ParseFS(assets, "assets/page.html"))

// bar is one run's picture of units sold beside units on sale. Its lengths are
// shares of the track, in percent.
type bar struct {
	Name         string
	Verdict      strategy.Verdict
	Within, Over float64
	// Line is where the units on sale end.
	Line        float64
	Text, Label string
}

type page struct {
	Proof                *proof.Proof
	Title, Lead, Verdict string
	Bars                 []bar
	Sentences, Notes     []string
	HasSamples           bool
	Columns              []string
	Rows                 [][]string
	UPlotCSS, CSS        template.CSS
	UPlotJS, JS          template.JS
}

// Page writes the proof as one HTML page, with everything that it needs inside.
func Page(w io.Writer, p *proof.Proof) error {
	view := page{
		Proof: p, Verdict: Conclusion(p), Bars: bars(p), Sentences: sentences(p), Notes: notes(p), Columns: columns,
	}
	view.Title, view.Lead = heading(p)
	for i := range p.Runs {
		view.Rows = append(view.Rows, cells(&p.Runs[i]))
		view.HasSamples = view.HasSamples || len(p.Runs[i].Samples) > 0
	}
	licence, err := assets.ReadFile("assets/uplot/LICENSE")
	if err != nil {
		return err
	}
	for _, part := range []struct {
		path string
		set  func(string)
	}{
		{"assets/page.css", func(s string) { view.CSS = template.CSS(s) }},
		{"assets/page.js", func(s string) { view.JS = template.JS(s) }},
		{"assets/uplot/uPlot.min.css", func(s string) { view.UPlotCSS = template.CSS(s) }},
		{"assets/uplot/uPlot.iife.min.js", func(s string) {
			view.UPlotJS = template.JS("/*!\n" + string(licence) + "\n*/\n" + s)
		}},
	} {
		data, err := assets.ReadFile(part.path)
		if err != nil {
			return err
		}
		part.set(string(data))
	}
	if err := pageTemplate.Execute(w, view); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

func heading(p *proof.Proof) (title, lead string) {
	if len(p.Runs) == 0 {
		return "No run", "Nothing was attacked."
	}
	r := &p.Runs[0]
	skus := "one SKU"
	if r.SKUs > 1 {
		skus = fmt.Sprintf("%d SKUs", r.SKUs)
	}
	title = fmt.Sprintf("%s on sale on %d replicas at once", skus, r.Replicas)
	if r.Replicas == 1 {
		title = skus + " on sale on one replica"
	}
	then := "joined to its order in the database"
	if p.Partial {
		then = "compared with its order, as the service shows it"
	}
	lead = fmt.Sprintf("Buyers came at %s a second, each with one request, to the replicas in turn. "+
		"Afterwards every answer was %s.", comma(r.Rate), then)
	return strings.ToUpper(title[:1]) + title[1:], lead
}

// bars are all to one scale, in which the units on sale have one length: runs
// differ in stock, but each is about its own.
func bars(p *proof.Proof) []bar {
	most := 1.0 // the longest bar, in units on sale
	for i := range p.Runs {
		most = max(most, ratio(p.Runs[i].UnitsSold, p.Runs[i].Stock))
	}
	const margin = 1.03 // so that the line of an exact run does not stand at the edge
	scale := 100 / (most * margin)
	list := make([]bar, len(p.Runs))
	for i := range p.Runs {
		r := &p.Runs[i]
		b := bar{
			Name: name(r), Verdict: r.Verdict, Line: scale,
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
