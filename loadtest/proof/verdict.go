package proof

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"flashsale/internal/strategy"
)

// Judge draws the verdict, by the precedence of strategy.Verdict. Any invariant
// that the audit found broken, without an oversell, counts as a loss: the books
// do not say what happened.
func Judge(c Counts, f Findings) strategy.Verdict {
	switch {
	case f.Oversold > 0:
		return strategy.Oversold
	case f.Lost+f.Unexplained+f.Duplicated+f.LimitExceeded+len(f.Violations) > 0:
		return strategy.Lost
	case f.Undersold > 0:
		return strategy.Undersold
	case f.UnitsSold == 0 || c.Accepted == 0 || f.Unserved > 0:
		return strategy.Failed
	default:
		return strategy.Exact
	}
}

// Sentence says what happened, for somebody who has not read the table's words.
func (r *Run) Sentence() string {
	name := r.Strategy
	if name == "" {
		name = "The service"
	}
	var s string
	switch r.Verdict {
	case strategy.Oversold:
		s = fmt.Sprintf("%s sold %s of %s: %s more than there were",
			name, units(r.UnitsSold), comma(r.Stock), units(r.Oversold))
	case strategy.Lost:
		s = fmt.Sprintf("%s sold %s of %s, but the books show %s", name, units(r.UnitsSold), comma(r.Stock), r.losses())
	case strategy.Undersold:
		s = fmt.Sprintf("%s sold %s of %s, and refused buyers although %s left",
			name, units(r.UnitsSold), comma(r.Stock), are(r.Undersold))
	case strategy.Failed:
		s = fmt.Sprintf("%s sold %s of %s, and answered %s with errors: this proves nothing",
			name, units(r.UnitsSold), comma(r.Stock), plural(int64(r.Errors+r.Ambiguous), "request"))
	case strategy.Exact:
		s = fmt.Sprintf("%s sold %s of %s, each of them once, and every answer is accounted for",
			name, units(r.UnitsSold), comma(r.Stock))
		if r.Available > 0 {
			s += fmt.Sprintf(" (%s left: too few buyers)", are(r.Available))
		}
	}
	if r.Verdict != r.Expected {
		s += fmt.Sprintf(". Expected: %s", r.Expected)
		if r.Expected == strategy.Oversold {
			s += ", which did not happen this time; more load makes it likelier (--rate, --replicas)"
		}
	}
	return s + "."
}

// losses names what the books do not bear out.
func (r *Run) losses() string {
	var list []string
	for _, l := range []struct {
		n    int
		what string
	}{
		{r.Lost, "promised without a row"},
		{r.Unexplained, "that nobody was told of"},
		{r.Duplicated, "that stand twice"},
		{r.LimitExceeded, "beyond a customer's limit"},
	} {
		if l.n > 0 {
			list = append(list, plural(int64(l.n), "order")+" "+l.what)
		}
	}
	if n := len(r.Violations); n > 0 {
		list = append(list, plural(int64(n), "violation")+" found by the audit ("+r.Violations[0].Invariant+": "+r.Violations[0].Detail+")")
	}
	return strings.Join(list, ", ")
}

func units(n int64) string { return plural(n, "unit") }

func are(n int64) string {
	if n == 1 {
		return "1 unit is"
	}
	return units(n) + " are"
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return comma(n) + " " + noun + "s"
}

func comma(n int64) string { return humanize.Comma(n) }
