package order

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the metrics of a Service. They are safe for concurrent use.
type Metrics struct {
	LockWait, LockHold, BatchSize, GroupSize, Commit, Vacant                       prometheus.Histogram
	LockLosses, HandOvers, Fenced, Unknown, Moved, Placed, Replayed, Full, Expired prometheus.Counter
	TakeOvers                                                                      *prometheus.CounterVec
	Held, SweepLag, Sweeping, Desks, Waiting                                       prometheus.Gauge
}

// NewMetrics makes the metrics and registers them, unless registry is nil.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	factory := promauto.With(registry)
	// From 250 microseconds, a lock in memory, to 8 seconds, a request timeout.
	seconds := prometheus.ExponentialBuckets(0.00025, 2, 16)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return factory.NewHistogram(prometheus.HistogramOpts{Namespace: "flashsale", Name: name, Help: help, Buckets: buckets})
	}
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Namespace: "flashsale", Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return factory.NewGauge(prometheus.GaugeOpts{Namespace: "flashsale", Name: name, Help: help})
	}
	takeOvers := factory.NewCounterVec(prometheus.CounterOpts{Namespace: "flashsale", Name: "takeovers_total",
		Help: "Locks taken from a dead or silent seller, by reason."}, []string{"reason"})
	for _, reason := range []string{reasonDead, reasonSilent} {
		takeOvers.WithLabelValues(reason) // export zeros from the start
	}
	return &Metrics{
		LockWait:   histogram("lock_wait_seconds", "Time from the request for a SKU's lock to its grant.", seconds),
		LockHold:   histogram("lock_hold_seconds", "Time from the grant of a SKU's lock to its release.", seconds),
		LockLosses: counter("lock_losses_total", "Locks that were lost: expired or revoked."),
		HandOvers:  counter("lock_handovers_total", "Locks released because another replica waited for them."),
		Held:       gauge("locks_held", "Locks that this replica holds."),
		Fenced:     counter("fence_refusals_total", "Batches and claims that MySQL refused because the row had changed or a newer token was admitted."),
		BatchSize:  histogram("batch_orders", "Orders of one SKU in one transaction.", prometheus.ExponentialBuckets(1, 2, 11)),
		GroupSize:  histogram("commit_skus", "SKUs in one transaction.", prometheus.ExponentialBuckets(1, 2, 9)),
		Commit:     histogram("commit_seconds", "Time from sending a transaction of batches to its answer.", seconds),
		Unknown:    counter("unknown_commits_total", "Commits that had to be resolved because their answer was lost."),
		Moved:      counter("orders_moved_total", "Repeated sends of an order, because the tenure it was sent to had ended or the link broke."),
		TakeOvers:  takeOvers,
		Vacant:     histogram("takeover_seconds", "Time from the last sign of life of a seller to the claim of the replica that took over.", seconds),
		Placed:     counter("orders_placed_total", "Orders made."),
		Replayed:   counter("orders_replayed_total", "Requests answered with an existing order of the same key."),
		Full:       counter("desk_full_total", "Orders refused because the queue of their desk was full."),
		Expired:    counter("orders_expired_total", "Orders that this replica expired."),
		SweepLag:   gauge("expiry_lag_seconds", "Time since the payment window of the oldest reserved order ended; 0 if none has ended, or if this replica does not expire orders."),
		Sweeping:   gauge("expiry_sweeper", "1 on the replica that expires orders, 0 on the others."),
		Desks:      gauge("desks", "Open desks: SKUs in use on this replica."),
		Waiting:    gauge("desk_waiting_orders", "Orders waiting at a desk of this replica."),
	}
}
