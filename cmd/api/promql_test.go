package main

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// scrapeInterval is the longest that the rules allow: an expression that has
// enough samples with it has enough with a shorter one.
const scrapeInterval = 15 * time.Second

// history is what Prometheus would remember of its scrapes. Times count from the
// beginning of a test. It is asked by Prometheus's own engine, which the parsing of
// rules brings along; its store and its manager of rules would bring hundreds of
// packages more, those of alertmanager among them.
type history struct {
	series []*promql.Series
	known  map[uint64]*promql.Series // by the hash of their labels
}

// add appends a sample to a series. Samples of a series come in order of time.
func (h *history) add(metric labels.Labels, at time.Duration, value float64) {
	s := h.known[metric.Hash()]
	if s == nil {
		s = &promql.Series{Metric: metric}
		if h.known == nil {
			h.known = map[uint64]*promql.Series{}
		}
		h.known[metric.Hash()] = s
		h.series = append(h.series, s)
	}
	s.Floats = append(s.Floats, promql.FPoint{T: at.Milliseconds(), F: value})
}

// scrape adds what the replica answers now, as the instance of its name.
func (h *history) scrape(c *client, at time.Duration) {
	c.t.Helper()
	samples := []*model.Sample{{Metric: model.Metric{"__name__": "up"}, Value: 1}}
	for _, family := range c.families() {
		more, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, family)
		if err != nil {
			c.t.Fatal(err)
		}
		samples = append(samples, more...)
	}
	target := model.Metric{"job": "flashsale", "instance": model.LabelValue(c.Name)}
	for _, sample := range samples {
		metric := labels.NewBuilder(labels.EmptyLabels())
		for _, set := range []model.Metric{target, sample.Metric} {
			for name, value := range set {
				metric.Set(string(name), string(value))
			}
		}
		h.add(metric.Labels(), at, float64(sample.Value))
	}
}

// ask evaluates an expression as of that time.
func (h *history) ask(t *testing.T, engine *promql.Engine, expr string, at time.Duration) promql.Vector {
	t.Helper()
	store := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{SelectMockFunction: h.match}}
	query, err := engine.NewInstantQuery(t.Context(), store, nil, expr, time.UnixMilli(at.Milliseconds()))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer query.Close()
	vector, err := query.Exec(t.Context()).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return slices.Clone(vector) // the query's end takes its own back
}

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute})
}

// match are the series that have these labels.
func (h *history) match(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &matched{}
	for _, s := range h.series {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Metric.Get(m.Name)) }) {
			set.series = append(set.series, s)
		}
	}
	return set
}

// matched is a storage.SeriesSet of series in memory.
type matched struct {
	series []*promql.Series
	at     *promql.Series
}

func (m *matched) Next() bool {
	if len(m.series) == 0 {
		return false
	}
	m.at, m.series = m.series[0], m.series[1:]
	return true
}

func (m *matched) At() storage.Series                { return promql.NewStorageSeries(*m.at) }
func (m *matched) Err() error                        { return nil }
func (m *matched) Warnings() annotations.Annotations { return nil }
