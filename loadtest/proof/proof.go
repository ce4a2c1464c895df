// Package proof compares what buyers were told with what the database holds.
//
// The audit of package stock gives each SKU's arithmetic; Join then looks for
// the row of each answer and the answer of each row; Judge draws the verdict.
// What was found counts, not what was expected: only Proof.Settle compares the
// two. How requests are sent is package attack's, how a proof looks is report's.
package proof

import (
	"math"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

// Proof is one or more runs, and whether all came out as they must. As JSON it
// is out/proof.json.
type Proof struct {
	Runs []Run  `json:"runs"`
	Seed uint64 `json:"seed"`
	// Database is the product with its version, or "" where it was not read.
	Database string `json:"database,omitempty"`
	Proven   bool   `json:"proven"`
	// Partial: the database could not be read. Orders that nobody was told of
	// are not in the figures.
	Partial bool `json:"partial,omitempty"`
}

// Settle works out whether the runs prove what the registry says. Where a
// strategy has to oversell, having been lucky proves nothing.
func (p *Proof) Settle() {
	p.Proven = len(p.Runs) > 0
	for _, r := range p.Runs {
		p.Proven = p.Proven && r.Verdict == r.Expected
	}
}

// Run is one attack and its audit. Units, rates and counts are over all SKUs.
type Run struct {
	Strategy string         `json:"strategy"`
	Fence    strategy.Fence `json:"fence"`
	Replicas int            `json:"replicas"`
	SKUs     int            `json:"skus"`
	// Stock is how many units were put on sale.
	Stock int64 `json:"stock"`
	Counts
	Findings
	// Rate was asked for, AchievedRate really offered, in requests a second.
	Rate         int     `json:"rate"`
	AchievedRate float64 `json:"achieved_rate"`
	// PeakUnderWay is the most requests that waited for an answer at a time.
	// Saturated: the harness keeps no more than that, and sent the next late.
	PeakUnderWay int  `json:"peak_under_way"`
	Saturated    bool `json:"saturated"`
	// Throughput is all answers a second, until the last came.
	Throughput float64 `json:"throughput"`
	// AcceptedPerSecond is over the time in which orders were accepted.
	AcceptedPerSecond float64          `json:"accepted_per_second"`
	Latency           Latency          `json:"latency_ms"`
	Verdict           strategy.Verdict `json:"verdict"`
	Expected          strategy.Verdict `json:"expected"`
	// Samples are the stock over time, as MySQL had it. None in a partial proof.
	Samples []Sample `json:"samples"`
	// Curve is the latency at more and more nines.
	Curve []Percentile `json:"latency_curve"`
}

// Behind reports whether the harness offered markedly less than it was asked
// to: the run then says less about the service than it seems to.
func (r *Run) Behind() bool { return r.AchievedRate < 0.95*float64(r.Rate) }

// Counts are the requests by outcome: Offered is the sum of the other four.
type Counts struct {
	Offered   int `json:"offered"`
	Accepted  int `json:"accepted"`
	SoldOut   int `json:"sold_out"`
	Errors    int `json:"errors"`
	Ambiguous int `json:"ambiguous"`
	// Reasons counts errors and ambiguous answers by status and problem.
	Reasons []Reason `json:"reasons"`
}

// Reason is one kind of answer that is neither an order nor a refusal for want
// of stock. Status 0 is no answer.
type Reason struct {
	Status int    `json:"status"`
	Slug   string `json:"slug"`
	Count  int    `json:"count"`
}

// Latency is in milliseconds, from when a request was due.
type Latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Percentile is one point of the cumulative latency: the share of all answers
// that came within so many milliseconds.
type Percentile struct {
	Share float64 `json:"share"`
	MS    float64 `json:"ms"`
}

// Sample is the stock at a time, in milliseconds from the attack's beginning.
type Sample struct {
	AtMS      float64 `json:"at_ms"`
	Available int64   `json:"available"`
	// Sold are the units of orders that are reserved or paid.
	Sold int64 `json:"sold"`
	at   time.Time
}

// Setting is what a run was made with.
type Setting struct {
	Strategy string
	Fence    strategy.Fence
	Replicas int
	Expected strategy.Verdict
	Stock    int64
	Plan     attack.Plan
}

// Assess makes a Run of an attack's result and of what the database then held.
func Assess(s Setting, result *attack.Result, books Books) Run {
	found := Join(s.Plan.Order, result.Answers, books)
	r := Run{
		Strategy: s.Strategy, Fence: s.Fence, Replicas: s.Replicas, SKUs: len(s.Plan.SKUs), Stock: s.Stock,
		Counts:       Count(result.Answers),
		Findings:     found,
		Rate:         s.Plan.Rate,
		AchievedRate: result.AchievedRate(), PeakUnderWay: result.PeakUnderWay, Saturated: result.Saturated,
		Expected: s.Expected,
		Samples:  books.Samples,
	}
	if r.Samples == nil {
		r.Samples = []Sample{} // a list in JSON, not null
	}
	for i := range r.Samples {
		// The first was taken just before the attack, and is what that began with.
		r.Samples[i].AtMS = max(0, ms(r.Samples[i].at.Sub(result.Began)))
	}
	latencies := attack.LatenciesOf(result.Answers)
	r.Latency = Latency{
		P50: ms(latencies.Quantile(0.5)), P95: ms(latencies.Quantile(0.95)),
		P99: ms(latencies.Quantile(0.99)), Max: ms(latencies.Quantile(1)),
	}
	r.Curve = curve(latencies)
	r.Throughput, r.AcceptedPerSecond = rates(result.Answers)
	r.Verdict = Judge(r.Counts, found)
	return r
}

func rates(answers []attack.Answer) (all, accepted float64) {
	var last, lastAccepted time.Duration
	n := 0
	for i := range answers {
		a := &answers[i]
		last = max(last, a.Done)
		if a.Outcome == attack.Accepted {
			n++
			lastAccepted = max(lastAccepted, a.Done)
		}
	}
	return perSecond(len(answers), last), perSecond(n, lastAccepted)
}

func perSecond(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// curve goes from the fastest answer to all but the slowest, in steps that are
// even on a scale of nines: 0.9, 0.99, 0.999.
func curve(l attack.Latencies) []Percentile {
	const stepsANine = 10
	points := []Percentile{}
	for step := 0; ; step++ {
		slower := math.Pow(10, -float64(step)/stepsANine) // the share of answers that took longer
		if slower*float64(len(l)) < 1 {
			return points
		}
		points = append(points, Percentile{Share: 1 - slower, MS: ms(l.Quantile(1 - slower))})
	}
}

// ms keeps three digits after the point: microseconds.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
