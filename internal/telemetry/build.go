package telemetry

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// Build is the metric that tells replicas' programs and settings apart: it is
// always 1, and its labels say what is to be known.
func Build(version, strategy, fence string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "flashsale_build_info", Help: "Always 1: the program's version, and how it guards its stock.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version(), "strategy": strategy, "fence": fence},
	})
	g.Set(1)
	return g
}

// Retries counts the tries of etcd-cas that were in vain.
func Retries(count func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "flashsale_etcd_cas_retries_total", Help: "Tries of a compare-and-swap of stock in etcd that another change came before.",
	}, func() float64 { return float64(count()) })
}
