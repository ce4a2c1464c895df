// Package proof compares the answers that buyers got with what the database holds.
//
// The audit of package stock checks each SKU's arithmetic. Reconcile finds the row
// of each answer and the answer of each row, and returns the verdict. Only
// Proof.Settle compares verdicts with what was expected. Package attack sends the
// requests, and package report shows the proof.
package proof

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

// Proof is one or more runs with their verdicts. As JSON it is out/proof.json.
type Proof struct {
	Runs []Run  `json:"runs"`
	Seed uint64 `json:"seed"`
	// Database is the product with its version, or "" if it was not read.
	Database string `json:"database,omitempty"`
	Proven   bool   `json:"proven"`
	// Partial: the database was not read. Orders without an answer are not included.
	Partial bool `json:"partial,omitempty"`
}

// Settle sets Proven. A strategy that is expected to oversell must have oversold.
func (p *Proof) Settle() {
	p.Proven = len(p.Runs) > 0
	for _, r := range p.Runs {
		p.Proven = p.Proven && r.Verdict == r.Expected
	}
}

// Run is one attack and its reconciliation. All figures are over all SKUs.
type Run struct {
	Strategy string         `json:"strategy"`
	Fence    strategy.Fence `json:"fence"`
	Replicas int            `json:"replicas"`
	// Targets are the URLs that were attacked, and AnsweredBy the replicas behind them.
	Targets    []string  `json:"targets"`
	AnsweredBy []Replica `json:"answered_by"`
	// Started is the start of the load, and DurationMS the time to its last answer.
	Started    time.Time `json:"started"`
	DurationMS float64   `json:"duration_ms"`
	// Interrupted: a signal ended the load early.
	Interrupted bool `json:"interrupted,omitempty"`
	SKUs        int  `json:"skus"`
	// Stock is the number of units that were put on sale.
	Stock int64 `json:"stock"`
	Counts
	Findings
	// Rate is the requested rate and AchievedRate the offered one, in requests a second.
	// With stages both are means.
	Rate         int            `json:"rate"`
	Stages       []attack.Stage `json:"stages,omitempty"`
	AchievedRate float64        `json:"achieved_rate"`
	// PeakUnderWay is the most requests that waited for an answer at one time.
	// Saturated: that was the harness's limit, and later requests were sent late.
	PeakUnderWay int  `json:"peak_under_way"`
	Saturated    bool `json:"saturated"`
	// Throughput is all answers a second, until the last one.
	Throughput float64 `json:"throughput"`
	// AcceptedPerSecond is over the time in which orders were accepted.
	AcceptedPerSecond float64 `json:"accepted_per_second"`
	Latency           Latency `json:"latency_ms"`
	// Those of accepted orders, and of the answers that the SKU is sold out.
	AcceptedLatency Latency          `json:"accepted_latency_ms"`
	RefusedLatency  Latency          `json:"refused_latency_ms"`
	Verdict         strategy.Verdict `json:"verdict"`
	Expected        strategy.Verdict `json:"expected"`
	// Calls are all requests by call, if orders were not the only one. Counts and Findings are
	// of orders alone, and Latency is over all calls.
	Calls []CallFigures `json:"calls,omitempty"`
	// Thresholds are those of the command.
	Thresholds []Checked `json:"thresholds,omitempty"`
	// Challenge is the evidence for the verdict exact; nil if there was none.
	Challenge *Challenge `json:"challenge,omitempty"`
	// Samples are the stock in MySQL over time. A partial proof has none.
	Samples []Sample `json:"samples"`
	// Curve is the latency at 0, 0.9, 0.99, ... and ten steps between these.
	Curve []Percentile `json:"latency_curve"`
}

// CallFigures are the requests of one call.
type CallFigures struct {
	Call    string `json:"call"`
	Offered int    `json:"offered"`
	// Served is the requests that succeeded; refusals for lack of units are in no other count.
	Served    int      `json:"served"`
	Errors    int      `json:"errors"`
	Ambiguous int      `json:"ambiguous"`
	Reasons   []Reason `json:"reasons"`
	Latency   Latency  `json:"latency_ms"`
}

// Replica is how many answers named a replica, by X-Replica. Name is "" for answers that
// named none.
type Replica struct {
	Name    string `json:"name"`
	Answers int    `json:"answers"`
}

// Name is the strategy, if it is known.
func (r *Run) Name() string { return cmp.Or(r.Strategy, "the service") }

// Behind reports whether the harness offered markedly less than the requested rate.
func (r *Run) Behind() bool { return r.AchievedRate < 0.95*float64(r.Rate) }

// Counts are the requests by outcome: Offered is the sum of the other four.
type Counts struct {
	Offered   int `json:"offered"`
	Accepted  int `json:"accepted"`
	SoldOut   int `json:"sold_out"`
	Errors    int `json:"errors"`
	Ambiguous int `json:"ambiguous"`
	// Reasons counts the errors and ambiguous answers by status and problem.
	Reasons []Reason `json:"reasons"`
}

// Reason is a kind of error or ambiguous answer. Status 0 is no answer.
type Reason struct {
	Status int    `json:"status"`
	Slug   string `json:"slug"`
	Count  int    `json:"count"`
}

func (r Reason) String() string {
	if r.Status == 0 {
		return fmt.Sprintf("%s x %s", Comma(r.Count), r.Slug)
	}
	return fmt.Sprintf("%s x %d %s", Comma(r.Count), r.Status, r.Slug)
}

// Latency is in milliseconds, from when a request was due.
type Latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	// P999 is p99.9.
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// Percentile says that this share of all answers arrived within MS milliseconds.
type Percentile struct {
	Share float64 `json:"share"`
	MS    float64 `json:"ms"`
}

// Sample is the stock at one time, in milliseconds from the start of the attack.
type Sample struct {
	AtMS      float64 `json:"at_ms"`
	Available int64   `json:"available"`
	// Sold is the units of orders that are reserved or paid.
	Sold int64 `json:"sold"`
	at   time.Time
}

// Setting is the configuration of a run.
type Setting struct {
	Strategy string
	Fence    strategy.Fence
	Replicas int
	Expected strategy.Verdict
	Stock    int64
	Plan     attack.Plan
}

// Assess reconciles an attack's result with the records after it.
func Assess(s Setting, result *attack.Result, records Records) Run {
	out := Reconcile(s.Plan.Order, result.Answers, records)
	out.settle(result.Answers, records.Rows)
	r := Run{
		Strategy: s.Strategy, Fence: s.Fence, Replicas: s.Replicas, SKUs: len(s.Plan.SKUs), Stock: s.Stock,
		Counts: out.Counts, Findings: out.Findings, Verdict: out.Verdict, Expected: s.Expected,
		Rate: s.Plan.Rate, Stages: s.Plan.Stages, AchievedRate: result.AchievedRate(), PeakUnderWay: result.PeakUnderWay, Saturated: result.Saturated,
		Samples: append([]Sample{}, records.Samples...), // a list in JSON, not null
	}
	for i := range r.Samples {
		// The first sample was taken just before the attack and is its initial stock.
		r.Samples[i].AtMS = max(0, Millis(r.Samples[i].at.Sub(result.Began)))
	}
	r.Targets, r.AnsweredBy = s.Plan.Targets, answeredBy(result.Answers)
	r.Started = result.Began
	latencies := attack.LatenciesOf(result.Answers)
	r.Latency, r.Curve = LatencyOf(latencies), CurveOf(latencies)
	r.AcceptedLatency = LatencyOf(attack.LatenciesOf(result.Answers, attack.Accepted))
	r.RefusedLatency = LatencyOf(attack.LatenciesOf(result.Answers, attack.SoldOut))
	r.Calls = callFigures(result.Answers)
	var took time.Duration
	took, r.Throughput, r.AcceptedPerSecond = rates(result.Answers)
	r.DurationMS = Millis(took)
	return r
}

// callFigures returns nil if all answers are to orders.
func callFigures(answers []attack.Answer) (list []CallFigures) {
	for _, call := range attack.Calls() {
		c, served := count(answers, call)
		if c.Offered == 0 {
			continue
		}
		var latencies attack.Latencies
		for i := range answers {
			if answers[i].Call == call {
				latencies = append(latencies, answers[i].Latency())
			}
		}
		slices.Sort(latencies)
		list = append(list, CallFigures{
			Call: call.String(), Offered: c.Offered, Served: served + c.Accepted, Errors: c.Errors, Ambiguous: c.Ambiguous,
			Reasons: c.Reasons, Latency: LatencyOf(latencies),
		})
	}
	if len(list) < 2 {
		return nil
	}
	return list
}

// answeredBy counts the answers by replica, in the order of the replicas' names.
func answeredBy(answers []attack.Answer) []Replica {
	counts := map[string]int{}
	for i := range answers {
		if answers[i].Status != 0 {
			counts[answers[i].Replica]++
		}
	}
	list := []Replica{}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, Replica{name, counts[name]})
	}
	return list
}

func rates(answers []attack.Answer) (last time.Duration, all, accepted float64) {
	var lastAccepted time.Duration
	n := 0
	for i := range answers {
		a := &answers[i]
		last = max(last, a.Done)
		if a.Outcome == attack.Accepted {
			n++
			lastAccepted = max(lastAccepted, a.Done)
		}
	}
	return last, perSecond(len(answers), last), perSecond(n, lastAccepted)
}

func perSecond(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// LatencyOf summarizes sorted latencies.
func LatencyOf(l attack.Latencies) Latency {
	return Latency{
		P50: Millis(l.Quantile(0.5)), P95: Millis(l.Quantile(0.95)), P99: Millis(l.Quantile(0.99)),
		P999: Millis(l.Quantile(0.999)), Max: Millis(l.Quantile(1)),
	}
}

// CurveOf returns the percentiles of sorted latencies, with ten steps for each nine.
func CurveOf(l attack.Latencies) []Percentile {
	const stepsANine = 10
	points := []Percentile{}
	for step := 0; ; step++ {
		slower := math.Pow(10, -float64(step)/stepsANine) // the share of answers that took longer
		if slower*float64(len(l)) < 1 {
			return points
		}
		points = append(points, Percentile{Share: 1 - slower, MS: Millis(l.Quantile(1 - slower))})
	}
}

// Millis is d in milliseconds, to the microsecond.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
