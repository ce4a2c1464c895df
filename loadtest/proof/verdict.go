package proof

import (
	"fmt"
	"strconv"
	"strings"

	"flashsale/internal/strategy"
)

// Judge returns the verdict, by the precedence of strategy.Verdict. Without an
// oversell, any violation that the audit found counts as lost.
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

// Sentence describes the run for readers who do not know the verdicts.
func (r *Run) Sentence() string {
	name := r.Strategy
	if name == "" {
		name = "The service"
	}
	var s string
	switch r.Verdict {
	case strategy.Oversold:
		s = fmt.Sprintf("%s sold %s of %s: %s more than were on sale",
			name, units(r.UnitsSold), comma(r.Stock), units(r.Oversold))
	case strategy.Lost:
		s = fmt.Sprintf("%s sold %s of %s, but the reconciliation found %s", name, units(r.UnitsSold), comma(r.Stock), r.losses())
	case strategy.Undersold:
		s = fmt.Sprintf("%s sold %s of %s, but refused buyers while %s left",
			name, units(r.UnitsSold), comma(r.Stock), are(r.Undersold))
	case strategy.Failed:
		s = fmt.Sprintf("%s sold %s of %s, but answered %s with an error: this proves nothing",
			name, units(r.UnitsSold), comma(r.Stock), plural(int64(r.Errors+r.Ambiguous), "request"))
	case strategy.Exact:
		s = fmt.Sprintf("%s sold %s of %s, each once, and every answer matches the database",
			name, units(r.UnitsSold), comma(r.Stock))
		if r.Available > 0 {
			s += fmt.Sprintf(" (%s left: too few buyers)", are(r.Available))
		}
	}
	if r.Verdict != r.Expected {
		s += fmt.Sprintf(". Expected: %s", r.Expected)
		if r.Expected == strategy.Oversold {
			s += ", which did not happen this time; more load makes it more likely (--rate, --replicas)"
		}
	}
	return s + "."
}

func (r *Run) losses() string {
	var list []string
	for _, l := range []struct {
		n    int
		what string
	}{
		{r.Lost, "promised but missing"},
		{r.Unexplained, "that no buyer was promised"},
		{r.Duplicated, "that exist twice"},
		{r.LimitExceeded, "over a customer's limit"},
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

func comma(n int64) string { return Comma(n) }

// Comma writes a number that is not negative with a comma before each three digits.
func Comma[N int | int64](n N) string {
	if n < 1000 {
		return strconv.FormatInt(int64(n), 10)
	}
	return Comma(n/1000) + fmt.Sprintf(",%03d", n%1000)
}
