package forward

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are those of one direction: "out" for Links, "in" for a Server. Both may use
// the same registry.
type metrics struct {
	orders   prometheus.Counter
	messages prometheus.Counter
	links    prometheus.Gauge
	broken   prometheus.Counter // nil for a Server
}

func newMetrics(registry prometheus.Registerer, direction string) metrics {
	factory := promauto.With(registry)
	labels := prometheus.Labels{"direction": direction}
	counter := func(name, help string, labels prometheus.Labels) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Namespace: "flashsale", Subsystem: "forward", Name: name, Help: help, ConstLabels: labels})
	}
	m := metrics{
		messages: counter("messages_total", "Messages with orders, by direction: out to sellers, in from other replicas.", labels),
		links: factory.NewGauge(prometheus.GaugeOpts{Namespace: "flashsale", Subsystem: "forward", Name: "links",
			Help: "Links that are up, by direction: out to sellers, in from other replicas.", ConstLabels: labels}),
	}
	if direction == "in" {
		m.orders = counter("orders_received_total", "Orders that other replicas forwarded to this replica.", nil)
		return m
	}
	m.orders = counter("orders_sent_total", "Orders that this replica forwarded to the seller.", nil)
	m.broken = counter("links_broken_total", "Links to sellers that ended before all their orders were answered.", nil)
	return m
}
