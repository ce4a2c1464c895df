package proof

import (
	"fmt"
	"math"
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
	case f.broken() > 0:
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
	s := fmt.Sprintf("%s sold %s of %s", name, units(r.UnitsSold), comma(r.Stock))
	switch r.Verdict {
	case strategy.Oversold:
		if r.Oversold > 0 {
			s += fmt.Sprintf(": %s more than were on sale", units(r.Oversold))
		}
	case strategy.Lost:
		if r.broken() > 0 {
			s += ", but the reconciliation found " + r.losses()
		}
	case strategy.Undersold:
		if r.Undersold > 0 {
			s += fmt.Sprintf(", but refused buyers while %s left", are(r.Undersold))
		}
	case strategy.Failed:
		s += fmt.Sprintf(", but answered %s with an error: this proves nothing", plural(int64(r.Errors+r.Ambiguous), "request"))
	case strategy.NotChallenged, strategy.Exact:
		s += ", each once, and every answer matches its order"
		if r.Available > 0 && !r.Interrupted {
			why := "too few buyers"
			if r.Returned > 0 {
				why = units(r.Returned) + " came back from cancelled or expired orders"
			}
			s += fmt.Sprintf(" (%s left: %s)", are(r.Available), why)
		}
	}
	if r.Interrupted {
		s += ", until it was interrupted"
	}
	if r.Challenge != nil && r.Challenge.Bursts > 0 {
		s += ". " + r.Challenge.sentence()
	}
	switch {
	case r.Verdict == strategy.NotChallenged:
		s += ". " + r.unproven()
	case r.Challenge != nil && r.Challenge.Failed != "":
		s += ". The challenge failed: " + r.Challenge.Failed
	}
	if r.Verdict != r.Expected {
		s += fmt.Sprintf(". Expected: %s", r.Expected)
		if r.Expected == strategy.Oversold {
			s += ", which did not happen this time; more load makes it more likely (--rate, --replicas)"
		}
	}
	return s + "."
}

// sentence says what happened when buyers ordered last units at once.
func (c *Challenge) sentence() string {
	s := fmt.Sprintf("%s times, %d buyers ordered a last unit at once: ", Comma(c.Bursts), c.Buyers)
	switch {
	case c.SoldTwice > 0:
		return s + fmt.Sprintf("it was sold more than once in %d of them", c.SoldTwice)
	case c.broken() > 0:
		return s + "the reconciliation found " + c.losses()
	case c.Undersold > 0:
		return s + fmt.Sprintf("in %d of them it was left, although buyers were refused", c.Undersold)
	}
	return s + "it was never sold twice"
}

// unproven says why the challenge is no evidence, and what would be.
func (r *Run) unproven() string {
	c := r.Challenge
	switch {
	case c == nil || r.Interrupted:
		return "Not challenged: the attack ended before enough orders had raced for last units"
	case c.Failed != "":
		return "Not challenged: the challenge failed: " + c.Failed
	case c.Errors+c.Ambiguous > c.Offered/4:
		return fmt.Sprintf("Not challenged: %d of these %d orders got no decision (%s). Raise the limits of the service for this test, if it has any; behind a slow lock, raise its time-outs",
			c.Errors+c.Ambiguous, c.Offered, c.Reasons[0])
	}
	where := "" // a single target may be a single replica
	if len(r.Targets) > 1 {
		where = " at two or more replicas"
	}
	return fmt.Sprintf("Not challenged: %d orders were under way at once%s in only %d of these bursts; %d are needed. "+
		"Add --until-contended for more buyers at once, or let the service pause for %.0f ms between reading and writing the stock "+
		"(--think-time of this service)", rivals+1, where, c.Contended, c.Needed, max(1, math.Ceil(2*c.SpreadMS)))
}

// broken counts what breaks an invariant, apart from an oversell.
func (f *Findings) broken() int {
	return f.Lost + f.Unexplained + f.Duplicated + f.LimitExceeded + f.Misstated + len(f.Violations)
}

func (f *Findings) losses() string {
	var list []string
	for _, l := range []struct {
		n    int
		what string
	}{
		{f.Lost, "promised but missing"},
		{f.Unexplained, "that no buyer was promised"},
		{f.Duplicated, "that exist twice"},
		{f.LimitExceeded, "over a customer's limit"},
		{f.Misstated, "in another state than was answered"},
	} {
		if l.n > 0 {
			list = append(list, plural(int64(l.n), "order")+" "+l.what)
		}
	}
	if n := len(f.Violations); n > 0 {
		list = append(list, plural(int64(n), "violation")+" found by the audit ("+f.Violations[0].Invariant+": "+f.Violations[0].Detail+")")
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
