package mirror

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the counters of a Mirror. All are safe for concurrent use.
type Metrics struct {
	Writes       prometheus.Counter
	Transactions prometheus.Counter
	LostRaces    prometheus.Counter
	Failures     prometheus.Counter
	Lag          prometheus.Histogram
	Relists      prometheus.Counter
}

// NewMetrics makes the metrics and registers them, unless the registry is nil.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	factory := promauto.With(registry)
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Namespace: "flashsale", Subsystem: "mirror", Name: name, Help: help})
	}
	return &Metrics{
		Writes:       counter("writes_total", "Entries that this replica wrote to etcd."),
		Transactions: counter("transactions_total", "Transactions in which this replica wrote, or tried to write, entries to etcd."),
		LostRaces:    counter("lost_races_total", "Entries that were not written because another replica had changed them. They are read and tried again."),
		Failures:     counter("write_failures_total", "Attempts to write entries that failed in MySQL or etcd. They are tried again."),
		Lag: factory.NewHistogram(prometheus.HistogramOpts{Namespace: "flashsale", Subsystem: "mirror", Name: "lag_seconds",
			Help: "Time from a commit of this replica until etcd has it.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		Relists: counter("relists_total", "Watches that broke and were opened again, with a new list."),
	}
}

var (
	ageMetric = prometheus.NewDesc("flashsale_mirror_age_seconds",
		"Time since the last message of etcd on the watch; infinite while there is no watch.", nil, nil)
	pendingMetric = prometheus.NewDesc("flashsale_mirror_pending_skus", "SKUs that this replica has not yet written to etcd.", nil, nil)
)

// Describe is for prometheus.Collector.
func (m *Mirror) Describe(to chan<- *prometheus.Desc) {
	to <- ageMetric
	to <- pendingMetric
}

// Collect reports the age of the view and the number of pending SKUs.
func (m *Mirror) Collect(to chan<- prometheus.Metric) {
	m.mu.RLock()
	age, pending := math.Inf(1), len(m.pending)
	if m.synced {
		age = time.Since(m.heard).Seconds()
	}
	m.mu.RUnlock()
	to <- prometheus.MustNewConstMetric(ageMetric, prometheus.GaugeValue, age)
	to <- prometheus.MustNewConstMetric(pendingMetric, prometheus.GaugeValue, float64(pending))
}
