// Package report shows a proof to people: as a table in a terminal, and as a
// page with pictures that needs no other host. It shows what is in the proof,
// and decides nothing.
package report

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"flashsale/loadtest/proof"
)

// columns are those of the table and of the page.
var columns = []string{
	"strategy", "on sale", "sold", "oversold", "lost", "accepted", "sold out", "errors", "ambiguous",
	"offered/s", "p50 ms", "p99 ms", "verdict",
}

// cells are a run's, in the order of columns.
func cells(r *proof.Run) []string {
	// Whatever the books do not bear out stands under one word; out/proof.json
	// tells the kinds apart.
	lost := r.Lost + r.Duplicated + r.Unexplained + r.LimitExceeded
	return []string{
		name(r), comma(r.Stock), comma(r.UnitsSold), comma(r.Oversold), comma(lost),
		comma(r.Accepted), comma(r.SoldOut), comma(r.Errors), comma(r.Ambiguous),
		fmt.Sprintf("%.0f of %d", r.AchievedRate, r.Rate),
		fmt.Sprintf("%.1f", r.Latency.P50), fmt.Sprintf("%.1f", r.Latency.P99), string(r.Verdict),
	}
}

// sentences are what happened, a run each.
func sentences(p *proof.Proof) []string {
	list := make([]string, len(p.Runs))
	for i := range p.Runs {
		list[i] = p.Runs[i].Sentence()
	}
	return list
}

// notes are what a reader should know before relying on the figures.
func notes(p *proof.Proof) []string {
	var list []string
	if p.Partial {
		list = append(list, "Partial: the database was not read. Each promised order was read back through the service instead; "+
			"orders that nobody was told of would not show.")
	}
	for i := range p.Runs {
		r := &p.Runs[i]
		if r.Behind() {
			list = append(list, behind(r))
		}
		if len(r.Reasons) > 0 {
			list = append(list, name(r)+": neither an order nor a refusal for want of stock: "+reasons(r)+".")
		}
		for _, example := range r.Examples {
			list = append(list, name(r)+": "+example+".")
		}
	}
	return list
}

func behind(r *proof.Run) string {
	why := "the machine did not keep up; lower --rate for figures to rely on"
	if r.Saturated {
		why = fmt.Sprintf("the %s requests that the harness keeps under way were all waiting for the service", comma(r.PeakUnderWay))
	}
	return fmt.Sprintf("%s: %.0f requests a second were offered of the %d asked for, under 95 %%: %s.", name(r), r.AchievedRate, r.Rate, why)
}

func reasons(r *proof.Run) string {
	text := ""
	for i, reason := range r.Reasons {
		if i > 0 {
			text += ", "
		}
		text += comma(reason.Count) + " x "
		if reason.Status > 0 {
			text += fmt.Sprint(reason.Status, " ")
		}
		text += reason.Slug
	}
	return text
}

func name(r *proof.Run) string {
	if r.Strategy == "" {
		return "the service"
	}
	return r.Strategy
}

func comma[N int | int64](n N) string { return humanize.Comma(int64(n)) }
