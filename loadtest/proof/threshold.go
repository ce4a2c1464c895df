package proof

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"flashsale/loadtest/attack"
)

// Threshold is a bound for a figure of a run, such as p99<50ms.
type Threshold struct {
	text, of, metric, compare string
	bound                     float64
	percent                   bool
}

// Checked is a threshold with the figure of a run.
type Checked struct {
	Threshold string `json:"threshold"`
	// Figure is in Unit: milliseconds, percent of all requests, requests or requests a
	// second. It is absent if the run has no such requests; the threshold then failed.
	Figure *float64 `json:"figure,omitempty"`
	Unit   string   `json:"unit,omitempty"`
	OK     bool     `json:"ok"`
}

func (c Checked) String() string {
	figure, result := "no such answers", "failed"
	if c.Figure != nil {
		figure = strconv.FormatFloat(*c.Figure, 'f', -1, 64) + strings.TrimRight(" "+c.Unit, " ")
	}
	if c.OK {
		result = "passed"
	}
	return fmt.Sprintf("%s: %s (%s)", c.Threshold, result, figure)
}

// latencies are the metrics with a duration.
var latencies = map[string]func(*Latency) float64{
	"p50":   func(l *Latency) float64 { return l.P50 },
	"p95":   func(l *Latency) float64 { return l.P95 },
	"p99":   func(l *Latency) float64 { return l.P99 },
	"p99.9": func(l *Latency) float64 { return l.P999 },
	"max":   func(l *Latency) float64 { return l.Max },
}

var thresholdForm = regexp.MustCompile(`^(?:(accepted|refused|order|pay|cancel|browse)\.)?([a-z0-9_.]+?)(<=|>=|<|>)([0-9.]+)([a-zµ%]*)$`)

// ParseThreshold parses a threshold. Spaces are ignored.
func ParseThreshold(text string) (Threshold, error) {
	refused := func(why string) (Threshold, error) {
		return Threshold{}, fmt.Errorf("--threshold %q: %s", text, why)
	}
	m := thresholdForm.FindStringSubmatch(strings.ReplaceAll(text, " ", ""))
	if m == nil {
		return refused("it must be METRIC<VALUE, such as p99<50ms, with <, <=, > or >=")
	}
	t := Threshold{text: text, of: m[1], metric: m[2], compare: m[3]}
	number, err := strconv.ParseFloat(m[4], 64)
	_, isLatency := latencies[t.metric]
	switch {
	case isLatency:
		d, err := time.ParseDuration(m[4] + m[5])
		if err != nil {
			return refused("the value must be a duration with its unit, such as 50ms")
		}
		t.bound = float64(d) / float64(time.Millisecond)
		return t, nil
	case t.of != "" || !slices.Contains([]string{"errors", "ambiguous", "rate", "accepted_per_second"}, t.metric):
		return refused("the metric must be p50, p95, p99, p99.9 or max, alone or after accepted., refused., order., pay., cancel. or browse., " +
			"or errors, ambiguous, rate or accepted_per_second")
	case err != nil:
		return refused("the value must be a number")
	}
	t.bound = number
	t.percent = m[5] == "%" && (t.metric == "errors" || t.metric == "ambiguous")
	if m[5] != "" && !t.percent {
		return refused("the value must be a number without a unit; only errors and ambiguous may be in %")
	}
	return t, nil
}

// Check compares the threshold with the run.
func (t Threshold) Check(r *Run) Checked {
	c := Checked{Threshold: t.text}
	figure, unit, ok := t.figure(r)
	if !ok {
		return c
	}
	c.Figure, c.Unit = &figure, unit
	switch t.compare {
	case "<":
		c.OK = figure < t.bound
	case "<=":
		c.OK = figure <= t.bound
	case ">":
		c.OK = figure > t.bound
	case ">=":
		c.OK = figure >= t.bound
	}
	return c
}

// figure returns false if the run has no such requests.
func (t Threshold) figure(r *Run) (figure float64, unit string, ok bool) {
	if of, is := latencies[t.metric]; is {
		latency, n := t.latency(r)
		return of(latency), "ms", n > 0
	}
	all, errors, ambiguous := r.requests()
	n := map[string]int{"errors": errors + ambiguous, "ambiguous": ambiguous}[t.metric]
	switch {
	case t.metric == "rate":
		return r.AchievedRate, "/s", true
	case t.metric == "accepted_per_second":
		return r.AcceptedPerSecond, "/s", true
	case t.percent:
		return 100 * float64(n) / float64(all), "%", all > 0
	}
	return float64(n), "", true
}

// latency returns the latencies that the threshold is about, and their number.
func (t Threshold) latency(r *Run) (l *Latency, n int) {
	switch t.of {
	case "":
		all, _, _ := r.requests()
		return &r.Latency, all
	case "accepted":
		return &r.AcceptedLatency, r.Accepted
	case "refused":
		return &r.RefusedLatency, r.SoldOut
	}
	for i := range r.Calls {
		if c := &r.Calls[i]; c.Call == t.of {
			return &c.Latency, c.Offered
		}
	}
	if t.of == attack.Place.String() && len(r.Calls) == 0 {
		return &r.Latency, r.Offered
	}
	return &Latency{}, 0
}

// requests counts the requests of all calls, those that were answered with an error, and
// those that may have been applied.
func (r *Run) requests() (all, errors, ambiguous int) {
	if len(r.Calls) == 0 {
		return r.Offered, r.Errors, r.Ambiguous
	}
	for _, c := range r.Calls {
		all, errors, ambiguous = all+c.Offered, errors+c.Errors, ambiguous+c.Ambiguous
	}
	return all, errors, ambiguous
}
