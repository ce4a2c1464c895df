package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/stock"
)

const (
	// stockEvery bounds how often the catalog is read, however often it is scraped:
	// without a mirror each read queries MySQL.
	stockEvery = time.Second
	// stockTimeout bounds the read. A scrape without stock is better than no scrape.
	stockTimeout = 2 * time.Second
)

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

// Stock is the collector of the stock of the first SKUs in byte order. Their number is
// limited: Prometheus stores a series for each. It is safe for concurrent use.
type Stock struct {
	catalog Catalog
	limit   int

	mu    sync.Mutex
	read  time.Time
	list  []stock.Stock
	count int
	err   error
}

// NewStock returns a collector of at most limit SKUs.
func NewStock(catalog Catalog, limit int) *Stock { return &Stock{catalog: catalog, limit: limit} }

// Describe implements prometheus.Collector.
func (s *Stock) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{unitsMetric, availableMetric, seqMetric, leftOutMetric, readMetric} {
		to <- d
	}
}

// Collect sends the stock, as read at most a second ago.
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
	// A collector gets no context.
	ctx, cancel := context.WithTimeout(context.Background(), stockTimeout)
	defer cancel()
	if s.limit > 0 {
		if list, err = s.catalog.List(ctx, "", s.limit); err != nil {
			return nil, 0, err
		}
	}
	count, err = s.catalog.Count(ctx)
	return list, count, err
}
