package mirror

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the metrics of a Mirror.
type metrics struct {
	writes, transactions, lostRaces, failures, relists prometheus.Counter
	lag                                                prometheus.Histogram
	age, pending                                       prometheus.GaugeFunc
}

// newMetrics makes the metrics of m and registers them, unless the registry is nil.
func newMetrics(registry prometheus.Registerer, m *Mirror) *metrics {
	factory := promauto.With(registry)
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Namespace: "flashsale", Subsystem: "mirror", Name: name, Help: help})
	}
	gauge := func(name, help string, read func() float64) prometheus.GaugeFunc {
		return factory.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "flashsale", Subsystem: "mirror", Name: name, Help: help}, func() float64 {
			m.mu.RLock()
			defer m.mu.RUnlock()
			return read()
		})
	}
	return &metrics{
		writes:       counter("writes_total", "Entries that this replica wrote to etcd."),
		transactions: counter("transactions_total", "Transactions in which this replica wrote, or tried to write, entries to etcd."),
		lostRaces:    counter("lost_races_total", "Entries that were not written because another replica had changed them. They are read and tried again."),
		failures:     counter("write_failures_total", "Attempts to write entries that failed in MySQL or etcd. They are tried again."),
		relists:      counter("relists_total", "Watches that broke and were opened again, with a new list."),
		lag: factory.NewHistogram(prometheus.HistogramOpts{Namespace: "flashsale", Subsystem: "mirror", Name: "lag_seconds",
			Help: "Time from a commit of this replica until etcd has it.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}),
		age: gauge("age_seconds", "Time since the last message of etcd on the watch; infinite while there is no watch.", func() float64 {
			if !m.synced {
				return math.Inf(1)
			}
			return time.Since(m.heard).Seconds()
		}),
		pending: gauge("pending_skus", "SKUs that this replica has not yet written to etcd.", func() float64 { return float64(len(m.pending)) }),
	}
}
