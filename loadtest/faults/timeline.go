package faults

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"flashsale/loadtest/attack"
)

// Timeline is what happened during a run, in steps of bucket.
type Timeline struct {
	// BucketMS is the length of a step.
	BucketMS int `json:"bucket_ms"`
	// Answers are the numbers of answers by kind, each over all steps.
	Answers map[string][]int `json:"answers"`
	// Faults are the spans of the faults.
	Faults []Span `json:"faults"`
}

// Span is a fault, in milliseconds from the start of the timeline: it began at FromMS and
// ended at ToMS; at SellsMS every replica sold again, or never if that is 0.
type Span struct {
	Name    string  `json:"name"`
	FromMS  float64 `json:"from_ms"`
	ToMS    float64 `json:"to_ms"`
	SellsMS float64 `json:"sells_ms"`
}

// bucket is fine enough to show a take-over of 300 ms.
const bucket = 100 * time.Millisecond

// The kinds of answers.
const (
	kindSold    = "sold"
	kindRefused = "refused: 503"
	kindUnknown = "unknown: 504 or no answer"
	kindOther   = "other"
	kindMixed   = "mixed calls answered"
)

// timeline collects a Timeline. It is safe for concurrent use.
type timeline struct {
	began time.Time

	mu  sync.Mutex
	out Timeline
}

func newTimeline() *timeline {
	return &timeline{began: time.Now(), out: Timeline{BucketMS: int(bucket.Milliseconds()), Answers: map[string][]int{}, Faults: []Span{}}}
}

func (t *timeline) hot(a *attack.Answer) {
	switch {
	case a.Outcome == attack.Accepted:
		t.add(kindSold)
	case a.Status == 0 || a.Status == http.StatusGatewayTimeout:
		t.add(kindUnknown)
	case a.Status == http.StatusServiceUnavailable:
		t.add(kindRefused)
	default:
		t.add(fmt.Sprint(kindOther, ": ", a.Status))
	}
}

func (t *timeline) add(kind string) {
	n := int(time.Since(t.began) / bucket)
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := t.out.Answers[kind]
	for len(counts) <= n {
		counts = append(counts, 0)
	}
	counts[n]++
	t.out.Answers[kind] = counts
}

// span adds a fault. If every replica sells again, they do so some time after healed.
func (t *timeline) span(name string, at, healed time.Time, took time.Duration, sells bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	from := func(x time.Time) float64 { return ms(x.Sub(t.began)) }
	span := Span{Name: name, FromMS: from(at), ToMS: from(healed)}
	if sells {
		span.SellsMS = from(healed.Add(took))
	}
	t.out.Faults = append(t.out.Faults, span)
}

// done returns the timeline, with kinds of the same length.
func (t *timeline) done() *Timeline {
	t.mu.Lock()
	defer t.mu.Unlock()
	steps := 0
	for _, counts := range t.out.Answers {
		steps = max(steps, len(counts))
	}
	for kind, counts := range t.out.Answers {
		t.out.Answers[kind] = append(counts, make([]int, steps-len(counts))...)
	}
	return &t.out
}
