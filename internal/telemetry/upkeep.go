package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// upkeepEvery bounds how often the servers are queried, however often the metrics
	// are scraped: the values change within minutes.
	upkeepEvery = 15 * time.Second
	// upkeepTimeout bounds the queries. A metric without an answer is left out.
	upkeepTimeout = 2 * time.Second
)

var (
	durableMetric = prometheus.NewDesc("flashsale_mysql_durable", "1 if MySQL syncs each commit to disk before it acknowledges it, else 0.", nil, nil)
	sizeMetric    = prometheus.NewDesc("flashsale_etcd_database_bytes", "Size of etcd's database at the member that is closest to its quota.", nil, nil)
	quotaMetric   = prometheus.NewDesc("flashsale_etcd_quota_bytes", "Size of the database at which etcd rejects writes.", nil, nil)
	alarmsMetric  = prometheus.NewDesc("flashsale_etcd_alarms", "Active alarms in etcd.", nil, nil)
)

// Upkeep is the collector of what servers need from their operator. It is safe for
// concurrent use.
type Upkeep struct {
	// Durable reports whether MySQL syncs each commit.
	Durable func(context.Context) (bool, error)
	// Etcd returns the bytes of etcd's database and quota, and the number of active
	// alarms. It is nil for a strategy without etcd.
	Etcd func(context.Context) (size, quota int64, alarms int, err error)

	mu    sync.Mutex
	asked time.Time
	shown []prometheus.Metric
}

// Describe implements prometheus.Collector.
func (u *Upkeep) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{durableMetric, sizeMetric, quotaMetric, alarmsMetric} {
		to <- d
	}
}

// Collect sends what the servers answered within upkeepEvery.
func (u *Upkeep) Collect(to chan<- prometheus.Metric) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.asked) > upkeepEvery {
		u.ask()
		u.asked = time.Now()
	}
	for _, m := range u.shown {
		to <- m
	}
}

func (u *Upkeep) ask() {
	ctx, cancel := context.WithTimeout(context.Background(), upkeepTimeout)
	defer cancel()
	u.shown = nil
	show := func(d *prometheus.Desc, value float64) {
		u.shown = append(u.shown, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value))
	}
	if durable, err := u.Durable(ctx); err == nil {
		value := 0.0
		if durable {
			value = 1
		}
		show(durableMetric, value)
	}
	if u.Etcd == nil {
		return
	}
	if size, quota, alarms, err := u.Etcd(ctx); err == nil {
		show(sizeMetric, float64(size))
		show(quotaMetric, float64(quota))
		show(alarmsMetric, float64(alarms))
	}
}
