package proof

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

// A sale that nothing raced for looks exact under any strategy. So buyers order the only
// unit of a SKU at once, many times. Each time is a trial of the service; it counts if
// enough requests really were under way together.
const (
	// Bursts is how many SKUs with one unit each are on sale, to be sold one after the other
	// until ContendedBursts of them were. BurstBuyers is how many buyers order each at once.
	Bursts      = 30
	BurstBuyers = 16
	// ContendedBursts are needed for the verdict exact. An unguarded service sold the unit
	// twice in at least 6 of 10 of them (docs/attack.md). That it does so in none of 20 has a
	// chance of 1 in 100 million.
	ContendedBursts = 20
	// rivals is how many other requests must have been under way with the one that got the unit.
	rivals = 7
)

// Round is requests by one plan, for example bursts with the same number of buyers, and
// their answers. Units is what was put on sale, over all SKUs.
type Round struct {
	Plan    attack.Plan
	Answers []attack.Answer
	Units   int64
}

// Challenge is what the service did when buyers ordered last units at once. Its counts and
// findings are those of these orders alone.
type Challenge struct {
	// Bursts is how many SKUs with one unit were ordered by Buyers at once; with several
	// rounds, Buyers is that of the last.
	Bursts int `json:"bursts"`
	Buyers int `json:"buyers"`
	// Contended is the bursts in which the request that got the unit was under way together
	// with at least seven others, at two or more replicas if there are several targets. Needed
	// is how many the verdict exact requires.
	Contended int `json:"contended"`
	Needed    int `json:"needed"`
	// SoldTwice is the SKUs whose only unit was sold more than once.
	SoldTwice int `json:"sold_twice"`
	// UnderWay is the median number of requests that were under way with the one that got
	// the unit.
	UnderWay int `json:"under_way"`
	// SpreadMS is the median time from the first to the last request of a burst, and
	// AnswerMS the median time until the buyer of the unit had the answer.
	SpreadMS float64 `json:"spread_ms"`
	AnswerMS float64 `json:"answer_ms"`
	// AnsweredBy is the replicas that answered.
	AnsweredBy []Replica `json:"answered_by"`
	// Failed is the error that ended the challenge early, or "".
	Failed string `json:"failed,omitempty"`
	Outcome
}

// Challenged reconciles the answers of bursts with the records after them.
func Challenged(rounds []Round, records Records) *Challenge {
	c := &Challenge{Needed: ContendedBursts}
	var (
		answers  []attack.Answer
		orders   []attack.Order
		skus     []string
		spreads  []time.Duration
		waits    []time.Duration
		underWay []int
	)
	for _, r := range rounds {
		for seq := range r.Answers {
			orders = append(orders, r.Plan.Order(seq))
		}
		answers, skus, c.Buyers = append(answers, r.Answers...), append(skus, r.Plan.SKUs...), r.Plan.Burst
		for b := range slices.Chunk(r.Answers, r.Plan.Burst) {
			c.Bursts++
			burst := look(b, len(r.Plan.Targets))
			spreads = append(spreads, burst.spread)
			if burst.winner != nil {
				waits, underWay = append(waits, burst.winner.Done-burst.winner.Sent), append(underWay, burst.underWay)
			}
			if burst.contended {
				c.Contended++
			}
		}
	}
	records = records.Of(skus)
	for _, b := range records.Balances {
		if b.Oversold > 0 {
			c.SoldTwice++
		}
	}
	c.AnsweredBy = answeredBy(answers)
	c.SpreadMS, c.AnswerMS, c.UnderWay = Millis(median(spreads)), Millis(median(waits)), median(underWay)
	c.Outcome = Reconcile(func(seq int) attack.Order { return orders[seq] }, answers, records)
	return c
}

// IsContended reports whether enough of a burst's requests were under way together. targets
// is the number of targets that they were sent to.
func IsContended(burst []attack.Answer, targets int) bool { return look(burst, targets).contended }

type burst struct {
	winner    *attack.Answer // the first accepted one, or nil
	underWay  int            // requests that were under way with the winner, and decided
	contended bool
	spread    time.Duration
}

// look examines the answers of one burst. A request counts if the service decided it: a
// refusal for lack of units, or the problem busy, which says that another order has the
// lock. Other errors, also a 503 by a proxy that sheds load, say nothing about stock.
func look(answers []attack.Answer, targets int) burst {
	var b burst
	first, last := answers[0].Sent, answers[0].Sent
	for i := range answers {
		a := &answers[i]
		first, last = min(first, a.Sent), max(last, a.Sent)
		if a.Outcome == attack.Accepted && (b.winner == nil || a.Done < b.winner.Done) {
			b.winner = a
		}
	}
	b.spread = last - first
	if b.winner == nil {
		return b
	}
	named := slices.ContainsFunc(answers, func(a attack.Answer) bool { return a.Replica != "" })
	at := map[string]bool{where(b.winner, targets, named): true}
	for i := range answers {
		a := &answers[i]
		decided := a.Outcome == attack.Accepted || a.Outcome == attack.SoldOut || a.Status == http.StatusServiceUnavailable && strings.HasPrefix(a.Reason, "busy")
		if a != b.winner && decided && a.Sent < b.winner.Done && a.Done > b.winner.Sent {
			b.underWay++
			at[where(a, targets, named)] = true
		}
	}
	delete(at, "") // an answer that names no replica, among some that do
	b.contended = b.underWay >= rivals && len(at) >= min(2, targets)
	return b
}

// where names the replica that answered, or the target if no answer of the burst names a
// replica: two targets may be one replica.
func where(a *attack.Answer, targets int, named bool) string {
	if named {
		return a.Replica
	}
	return fmt.Sprint("target ", a.Seq%targets)
}

func median[T int | time.Duration](list []T) T {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

// precedence is that of strategy.Verdict.
var precedence = []strategy.Verdict{strategy.Oversold, strategy.Lost, strategy.Undersold, strategy.Failed, strategy.NotChallenged, strategy.Exact}

// Weigh adds the challenge to the run. What the challenge broke counts like what the load
// broke, and a run that was not challenged is not called exact.
func (r *Run) Weigh(c *Challenge) {
	r.Challenge = c
	shown := c.Verdict
	if shown == strategy.Failed || shown == strategy.Exact && c.Contended < c.Needed {
		shown = strategy.NotChallenged
	}
	r.Verdict = precedence[min(slices.Index(precedence, r.Verdict), slices.Index(precedence, shown))]
}

// Append adds the records of other SKUs.
func (r *Records) Append(others Records) {
	r.Rows = append(r.Rows, others.Rows...)
	r.Balances = append(r.Balances, others.Balances...)
	r.Violations = append(r.Violations, others.Violations...)
}

// Of returns the records of those SKUs, without samples.
func (r Records) Of(skus []string) Records {
	ours := make(map[string]bool, len(skus))
	for _, sku := range skus {
		ours[sku] = true
	}
	var of Records
	for _, b := range r.Balances {
		if ours[b.SKU] {
			of.Balances = append(of.Balances, b)
		}
	}
	for _, v := range r.Violations {
		if ours[v.SKU] {
			of.Violations = append(of.Violations, v)
		}
	}
	for _, row := range r.Rows {
		if ours[row.SKU] {
			of.Rows = append(of.Rows, row)
		}
	}
	return of
}
