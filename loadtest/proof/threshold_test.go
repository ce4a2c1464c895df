package proof

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashsale/loadtest/attack"
)

func measured() *Run {
	l := Latency{P50: 1, P95: 10, P99: 49.999, P999: 60, Max: 1500}
	return &Run{
		Counts: Counts{Offered: 1000, Accepted: 100, SoldOut: 898, Errors: 1, Ambiguous: 1}, Latency: l,
		AcceptedLatency: Latency{P99: 20}, RefusedLatency: Latency{P99: 5}, Rate: 2000, AchievedRate: 1990.5, AcceptedPerSecond: 321,
	}
}

func TestThresholds(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"p99<50ms":                  "passed (49.999 ms)",
		"p99 <= 49.999ms":           "passed (49.999 ms)",
		"p99<49.999ms":              "failed (49.999 ms)",
		"p50>=1ms":                  "passed (1 ms)",
		"p50>1000us":                "failed (1 ms)",
		"p95<0.01s":                 "failed (10 ms)",
		"p99.9<1m":                  "passed (60 ms)",
		"max<1.5s":                  "failed (1500 ms)",
		"accepted.p99<20ms":         "failed (20 ms)",
		"refused.p99<20ms":          "passed (5 ms)",
		"order.p99<50ms":            "passed (49.999 ms)",
		"pay.p99<50ms":              "failed (no such answers)",
		"pay.p99>0s":                "failed (no such answers)",
		"errors<0.2%":               "failed (0.2 %)",
		"errors<=0.2%":              "passed (0.2 %)",
		"errors<2":                  "failed (2)",
		"ambiguous<=1":              "passed (1)",
		"rate>=1990":                "passed (1990.5 /s)",
		"accepted_per_second > 400": "failed (321 /s)",
	} {
		threshold, err := ParseThreshold(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := threshold.Check(measured()).String(); got != text+": "+want {
			t.Errorf("got %q, want %q", got, text+": "+want)
		}
	}
	r := measured()
	r.Calls = []CallFigures{{Call: "order", Offered: 1000, Errors: 1, Ambiguous: 1}, {Call: "pay", Offered: 1000, Errors: 3, Latency: Latency{P99: 7}}}
	for text, want := range map[string]string{"pay.p99<8ms": "passed (7 ms)", "errors<0.25%": "failed (0.25 %)", "browse.max<1s": "failed (no such answers)"} {
		threshold, err := ParseThreshold(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := threshold.Check(r).String(); got != text+": "+want {
			t.Errorf("with calls: got %q, want %q", got, text+": "+want)
		}
	}
}

func TestBadThresholdsAreReported(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "METRIC<VALUE", "p99": "METRIC<VALUE", "p99=5ms": "METRIC<VALUE", "p99<": "METRIC<VALUE", "p99<50ms,": "METRIC<VALUE",
		"p99<50": "with its unit", "p99<50%": "with its unit", "p98<50ms": "the metric must be", "accepted.errors<1": "the metric must be",
		"error<1": "the metric must be", "errors<1ms": "without a unit", "rate>50%": "without a unit", "errors<1.2.3": "a number",
	} {
		if _, err := ParseThreshold(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--threshold") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestOnlyDifferencesBeyondNoiseAreMarked(t *testing.T) {
	t.Parallel()
	before, now := measured(), measured()
	before.Strategy, now.Strategy = "etcd", "etcd"
	now.AchievedRate, now.AcceptedPerSecond = 1800, 400
	now.Latency.P50, now.Latency.P95, now.Latency.P99, now.Latency.Max = 1.9, 12.6, 80, 700
	now.Errors, now.Rate = 3, 1900
	list, notes := Compare(&Proof{Runs: []Run{{Strategy: "none"}, *before}}, &Proof{Runs: []Run{*now, {Strategy: "redis"}}})
	marks := map[string]string{}
	for _, d := range list {
		marks[d.Figure] = d.Mark
	}
	want := map[string]string{
		"rate /s": "worse", "accepted /s": "better", "p50 ms": "", "p95 ms": "worse", "p99 ms": "worse", "max ms": "", "errors %": "worse",
	}
	if diff := cmp.Diff(want, marks); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !slices.Equal(notes, []string{"etcd: the earlier run differed in rate (2000, now 1900)", "redis: the earlier result has no such run"}) {
		t.Errorf("got notes %q", notes)
	}
}

func TestCallsHaveFiguresOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene()
	s.ask(attack.Pay, 0, attack.Served)
	s.ask(attack.Pay, 1, attack.Refused)
	for i := range s.answers {
		s.answers[i].Done = 1e6
	}
	s.answers[10].Done = 5e6
	s.records.Rows[0].Status = "paid"
	r := Assess(Setting{Plan: plan}, &attack.Result{Answers: s.answers}, s.records)
	if r.Offered != 10 || r.Offered != r.Accepted+r.SoldOut+r.Errors+r.Ambiguous || r.Misstated != 0 {
		t.Errorf("orders: got %+v, %d misstated", r.Counts, r.Misstated)
	}
	if len(r.Calls) != 2 || r.Calls[1].Offered != 2 || r.Calls[1].Served != 1 || r.Calls[1].Errors != 1 || r.Calls[1].Latency.Max != 5 || r.Latency.Max != 5 {
		t.Errorf("got %+v", r.Calls)
	}
	// As --compare reads it back.
	r.Stages = []attack.Stage{{Duration: 1e9, Rate: 5}}
	text, err := json.Marshal(r)
	var again Run
	if err != nil || json.Unmarshal(text, &again) != nil || !slices.Equal(again.Stages, r.Stages) || !strings.Contains(string(text), `"1s:5"`) {
		t.Errorf("%v: %s", err, text)
	}
}
