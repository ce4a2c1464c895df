package telemetry

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/stock"
)

const (
	// readTimeout bounds the queries of a collector. Metrics without an answer are
	// left out: a scrape without them is better than no scrape.
	readTimeout = 2 * time.Second
	// stockEvery: without a mirror, each read of the catalog queries MySQL.
	stockEvery = time.Second
	// readyEvery: each check writes to MySQL and to the lock server.
	readyEvery = time.Second
	// upkeepEvery: the values change within minutes.
	upkeepEvery = 15 * time.Second
)

// collector sends gauges that it reads from servers. It reads at most once in the
// interval every, however often it is scraped. It is safe for concurrent use.
type collector struct {
	every time.Duration
	descs []*prometheus.Desc
	read  func(ctx context.Context, show func(d *prometheus.Desc, value float64, labels ...string))

	mu    sync.Mutex
	last  time.Time
	shown []prometheus.Metric
}

func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

func (c *collector) Collect(to chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.last) > c.every {
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		c.shown = nil
		c.read(ctx, func(d *prometheus.Desc, value float64, labels ...string) {
			c.shown = append(c.shown, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...))
		})
		c.last = time.Now()
	}
	for _, m := range c.shown {
		to <- m
	}
}

// Catalog reads SKUs. List sorts them in byte order.
type Catalog interface {
	List(ctx context.Context, after string, limit int) ([]stock.Stock, error)
	Count(ctx context.Context) (int, error)
}

var (
	unitsMetric     = prometheus.NewDesc("flashsale_stock_units", "Units of a SKU that were put on sale.", []string{"sku"}, nil)
	availableMetric = prometheus.NewDesc("flashsale_stock_available_units", "Units of a SKU that are still available.", []string{"sku"}, nil)
	seqMetric       = prometheus.NewDesc("flashsale_stock_seq", "Number of writes to a SKU's stock.", []string{"sku"}, nil)
	leftOutMetric   = prometheus.NewDesc("flashsale_stock_left_out_skus", "SKUs whose stock is not shown because there are more than --metrics-skus.", nil, nil)
	readMetric      = prometheus.NewDesc("flashsale_stock_read", "1 if the stock was read for this scrape, else 0.", nil, nil)
)

// Stock returns a collector of the stock of the first SKUs in byte order. limit bounds
// their number: Prometheus stores a series for each.
func Stock(catalog Catalog, limit int) prometheus.Collector {
	return &collector{every: stockEvery, descs: []*prometheus.Desc{unitsMetric, availableMetric, seqMetric, leftOutMetric, readMetric},
		read: func(ctx context.Context, show func(*prometheus.Desc, float64, ...string)) {
			var list []stock.Stock
			var err error
			if limit > 0 {
				list, err = catalog.List(ctx, "", limit)
			}
			count, countErr := catalog.Count(ctx)
			if err != nil || countErr != nil {
				show(readMetric, 0)
				return
			}
			show(readMetric, 1)
			for i := range list {
				row := &list[i]
				show(unitsMetric, float64(row.Units), row.SKU)
				show(availableMetric, float64(row.Available), row.SKU)
				show(seqMetric, float64(row.Seq), row.SKU)
			}
			show(leftOutMetric, float64(max(0, count-len(list))))
		}}
}

var (
	durableMetric = prometheus.NewDesc("flashsale_mysql_durable", "1 if MySQL syncs each commit to disk before it acknowledges it, else 0.", nil, nil)
	sizeMetric    = prometheus.NewDesc("flashsale_etcd_database_bytes", "Size of etcd's database at the member that is closest to its quota.", nil, nil)
	quotaMetric   = prometheus.NewDesc("flashsale_etcd_quota_bytes", "Size of the database at which etcd rejects writes.", nil, nil)
	alarmsMetric  = prometheus.NewDesc("flashsale_etcd_alarms", "Active alarms in etcd.", nil, nil)
)

// Upkeep returns a collector of what the servers need from their operator. durable
// reports whether MySQL syncs each commit. usage returns the bytes of etcd's database
// and quota, and the number of active alarms; it is nil for a strategy without etcd.
func Upkeep(durable func(context.Context) (bool, error), usage func(context.Context) (size, quota int64, alarms int, err error)) prometheus.Collector {
	return &collector{every: upkeepEvery, descs: []*prometheus.Desc{durableMetric, sizeMetric, quotaMetric, alarmsMetric},
		read: func(ctx context.Context, show func(*prometheus.Desc, float64, ...string)) {
			if synced, err := durable(ctx); err == nil && synced {
				show(durableMetric, 1)
			} else if err == nil {
				show(durableMetric, 0)
			}
			if usage == nil {
				return
			}
			if size, quota, alarms, err := usage(ctx); err == nil {
				show(sizeMetric, float64(size))
				show(quotaMetric, float64(quota))
				show(alarmsMetric, float64(alarms))
			}
		}}
}

var readyMetric = prometheus.NewDesc("flashsale_ready", "1 if the replica could sell when this was scraped, else 0.", nil, nil)

// Ready returns a collector of whether the replica can sell. It asks by itself: load
// balancers and Kubernetes may ask /readyz for reading only, or not at all.
func Ready(canSell func(context.Context) bool) prometheus.Collector {
	return &collector{every: readyEvery, descs: []*prometheus.Desc{readyMetric},
		read: func(ctx context.Context, show func(*prometheus.Desc, float64, ...string)) {
			if canSell(ctx) {
				show(readyMetric, 1)
			} else {
				show(readyMetric, 0)
			}
		}}
}

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
