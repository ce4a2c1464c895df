package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/stock"
)

const (
	// stockEvery is how often the catalog is read at most, however many scrape:
	// where there is no mirror, that is a query.
	stockEvery = time.Second
	// stockTimeout bounds the reading. A scrape without stock is better than none.
	stockTimeout = 2 * time.Second
)

// Catalog is where SKUs are read. List is in byte order.
type Catalog interface {
	List(ctx context.Context, after string, limit int) ([]stock.Stock, error)
	Count(ctx context.Context) (int, error)
}

var (
	unitsMetric     = prometheus.NewDesc("flashsale_stock_units", "Units of a SKU that were put on sale.", []string{"sku"}, nil)
	availableMetric = prometheus.NewDesc("flashsale_stock_available_units", "Units of a SKU that are left.", []string{"sku"}, nil)
	seqMetric       = prometheus.NewDesc("flashsale_stock_seq", "Writes of a SKU's stock so far.", []string{"sku"}, nil)
	leftOutMetric   = prometheus.NewDesc("flashsale_stock_left_out_skus", "SKUs beyond the first of --metrics-skus, whose stock is not shown.", nil, nil)
	readMetric      = prometheus.NewDesc("flashsale_stock_read", "Whether the stock could be read for this scrape: 1 or 0.", nil, nil)
)

// Stock shows the stock of the first SKUs in byte order, at most that many: each
// is a series of its own, which Prometheus keeps. It is safe for concurrent use.
type Stock struct {
	catalog Catalog
	most    int

	mu    sync.Mutex
	read  time.Time
	list  []stock.Stock
	count int
	err   error
}

// NewStock makes the collector.
func NewStock(catalog Catalog, most int) *Stock { return &Stock{catalog: catalog, most: most} }

// Describe is prometheus.Collector's.
func (s *Stock) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{unitsMetric, availableMetric, seqMetric, leftOutMetric, readMetric} {
		to <- d
	}
}

// Collect tells what the catalog had within the last second.
func (s *Stock) Collect(to chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.read) > stockEvery {
		s.list, s.count, s.err = s.fetch()
		s.read = time.Now()
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	if s.err != nil {
		gauge(readMetric, 0)
		return
	}
	gauge(readMetric, 1)
	for i := range s.list {
		row := &s.list[i]
		gauge(unitsMetric, float64(row.Units), row.SKU)
		gauge(availableMetric, float64(row.Available), row.SKU)
		gauge(seqMetric, float64(row.Seq), row.SKU)
	}
	gauge(leftOutMetric, float64(max(0, s.count-len(s.list))))
}

func (s *Stock) fetch() (list []stock.Stock, count int, err error) {
	// Collectors are given no context.
	ctx, cancel := context.WithTimeout(context.Background(), stockTimeout)
	defer cancel()
	if s.most > 0 { // no rows are asked for where none are shown
		if list, err = s.catalog.List(ctx, "", s.most); err != nil {
			return nil, 0, err
		}
	}
	count, err = s.catalog.Count(ctx)
	return list, count, err
}
