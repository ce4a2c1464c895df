package order

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are what a Service counts. All are safe for concurrent use.
type Metrics struct {
	LockWait   prometheus.Histogram
	LockHold   prometheus.Histogram
	LockLosses prometheus.Counter
	HandOvers  prometheus.Counter
	Held       prometheus.Gauge
	Fenced     prometheus.Counter
	BatchSize  prometheus.Histogram
	GroupSize  prometheus.Histogram
	Commit     prometheus.Histogram
	Unknown    prometheus.Counter
	Moved      prometheus.Counter
	TakeOvers  *prometheus.CounterVec
	Vacant     prometheus.Histogram
	Placed     prometheus.Counter
	Replayed   prometheus.Counter
	Full       prometheus.Counter
	Expired    prometheus.Counter
	SweepLag   prometheus.Gauge
	Sweeping   prometheus.Gauge
	Desks      prometheus.Gauge
	Waiting    prometheus.Gauge
}

// NewMetrics makes the metrics and registers them; with a nil registry they
// count for nobody.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	factory := promauto.With(registry)
	// 250 microseconds to 8 seconds: a lock in memory to a request's time-out.
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
		Help: "Locks taken from a seller that was dead or silent, by reason."}, []string{"reason"})
	for _, reason := range []string{reasonDead, reasonSilent} {
		takeOvers.WithLabelValues(reason) // there from the beginning
	}
	return &Metrics{
		LockWait:   histogram("lock_wait_seconds", "From asking for a SKU's lock to its grant.", seconds),
		LockHold:   histogram("lock_hold_seconds", "From the grant of a SKU's lock to its release.", seconds),
		LockLosses: counter("lock_losses_total", "Grants that ended by themselves: expired or revoked."),
		HandOvers:  counter("lock_handovers_total", "Locks that were given back because another replica wanted them."),
		Held:       gauge("locks_held", "Locks that this replica holds."),
		Fenced:     counter("fence_refusals_total", "Batches that MySQL refused because a newer token was admitted."),
		BatchSize:  histogram("batch_orders", "Orders of one SKU committed at once.", prometheus.ExponentialBuckets(1, 2, 11)),
		GroupSize:  histogram("commit_skus", "SKUs written in one transaction.", prometheus.ExponentialBuckets(1, 2, 9)),
		Commit:     histogram("commit_seconds", "One transaction of batches, from its packet to its answer.", seconds),
		Unknown:    counter("unknown_commits_total", "Commits whose answer was lost and that had to be resolved."),
		Moved:      counter("orders_moved_total", "Times that an order was sent again, because the tenure that it was sent to had ended or its link broke."),
		TakeOvers:  takeOvers,
		Vacant:     histogram("takeover_seconds", "From the last sign of a seller that was taken over to the claim of the next one.", seconds),
		Placed:     counter("orders_placed_total", "Orders that were made."),
		Replayed:   counter("orders_replayed_total", "Orders that were asked for again under their key."),
		Full:       counter("desk_full_total", "Orders that were refused because their desk's queue was full."),
		Expired:    counter("orders_expired_total", "Orders that this replica ended because their payment window was over."),
		SweepLag:   gauge("expiry_lag_seconds", "How long ago the window of the oldest reserved order ended; 0 where none has, and where this replica does not sweep."),
		Sweeping:   gauge("expiry_sweeper", "1 on the replica that expires orders, 0 on the others."),
		Desks:      gauge("desks", "Desks that are open: SKUs in use on this replica."),
		Waiting:    gauge("desk_waiting_orders", "Orders that wait at a desk of this replica."),
	}
}
