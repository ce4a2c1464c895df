package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// upkeepEvery is how often the servers are asked at most, however many scrape:
	// what is asked changes within minutes.
	upkeepEvery = 15 * time.Second
	// upkeepTimeout bounds the asking. What was not answered is not shown.
	upkeepTimeout = 2 * time.Second
)

var (
	durableMetric = prometheus.NewDesc("flashsale_mysql_durable", "Whether MySQL has an order that was answered on its disk: 1 or 0.", nil, nil)
	sizeMetric    = prometheus.NewDesc("flashsale_etcd_database_bytes", "Size of etcd's database, at the member whose quota is nearest.", nil, nil)
	quotaMetric   = prometheus.NewDesc("flashsale_etcd_quota_bytes", "Size of etcd's database from which on it refuses writes.", nil, nil)
	alarmsMetric  = prometheus.NewDesc("flashsale_etcd_alarms", "Alarms that are raised in etcd.", nil, nil)
)

// Upkeep shows what a server needs of its operator. It is safe for concurrent use.
type Upkeep struct {
	// Durable asks MySQL.
	Durable func(context.Context) (bool, error)
	// Etcd asks for the bytes of its database and of its quota, and for how many
	// alarms are raised. It is nil where there is no etcd.
	Etcd func(context.Context) (size, quota int64, alarms int, err error)

	mu    sync.Mutex
	asked time.Time
	shown []prometheus.Metric
}

// Describe is prometheus.Collector's.
func (u *Upkeep) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{durableMetric, sizeMetric, quotaMetric, alarmsMetric} {
		to <- d
	}
}

// Collect tells what the servers answered within upkeepEvery.
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
