package telemetry

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// Build is the metric whose labels describe the program and its configuration. Its
// value is always 1.
func Build(version, strategy, fence string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "flashsale_build_info", Help: "Always 1; the labels are the program's version, strategy and fence.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version(), "strategy": strategy, "fence": fence},
	})
	g.Set(1)
	return g
}

// Retries counts the compare-and-swaps of etcd-cas that failed.
func Retries(count func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "flashsale_etcd_cas_retries_total", Help: "Compare-and-swaps of stock in etcd that were retried because another change came first.",
	}, func() float64 { return float64(count()) })
}
