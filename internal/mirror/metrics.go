package mirror

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are what a Mirror counts. All are safe for concurrent use.
type Metrics struct {
	Writes       prometheus.Counter
	Transactions prometheus.Counter
	LostRaces    prometheus.Counter
	Stale        prometheus.Counter
	Behind       prometheus.Counter
	Relists      prometheus.Counter
}

// NewMetrics makes the metrics and registers them; with a nil registry they
// count for nobody.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	factory := promauto.With(registry)
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Namespace: "flashsale", Subsystem: "mirror", Name: name, Help: help})
	}
	return &Metrics{
		Writes:       counter("writes_total", "Entries that this replica has put into etcd."),
		Transactions: counter("transactions_total", "Transactions in which it has put, or tried to put, entries."),
		LostRaces:    counter("lost_races_total", "Entries that were not put, because another had changed them: read and tried again."),
		Stale:        counter("stale_total", "Sold-out entries that this replica has compared with MySQL and found out of date."),
		Behind:       counter("behind_total", "Comparisons in which MySQL was older than the entry, or had no such SKU."),
		Relists:      counter("relists_total", "Watches that broke and were opened again, with a new list."),
	}
}
