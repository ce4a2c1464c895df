package httpapi

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are what the API counts of its requests: traffic, latency, errors and
// how many are in hand.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	problems *prometheus.CounterVec
	inFlight prometheus.Gauge
	streams  prometheus.Gauge
	ready    *prometheus.GaugeVec

	// kept are the series that were used before. They are few, and each is met
	// again by nearly every request: a map that is never written to costs less
	// than two look-ups of labels.
	kept   atomic.Pointer[map[request]series]
	adding sync.Mutex
}

// request is what tells the series of requests apart.
type request struct {
	method, route string
	status        int
}

type series struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

func newMetrics(registry prometheus.Registerer) *metrics {
	factory := promauto.With(registry)
	gauge := func(name, help string) prometheus.Gauge {
		return factory.NewGauge(prometheus.GaugeOpts{Namespace: "flashsale", Name: name, Help: help})
	}
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{Namespace: "flashsale", Name: "http_requests_total",
			Help: "Requests by route and status."}, []string{"method", "route", "status"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{Namespace: "flashsale", Name: "http_request_seconds",
			Help: "From a request's headers to its answer; without event streams.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)},
			[]string{"method", "route"}),
		problems: factory.NewCounterVec(prometheus.CounterOpts{Namespace: "flashsale", Name: "http_problems_total",
			Help: "Answers that were problems, by the slug of their type."}, []string{"slug"}),
		inFlight: gauge("http_in_flight_requests", "Requests in hand; without event streams."),
		streams:  gauge("http_event_streams", "Event streams that are open."),
		// Without a label: a vector has no series before it is first set, and 0
		// would say that a replica is not ready whom nobody has asked.
		ready: factory.NewGaugeVec(prometheus.GaugeOpts{Namespace: "flashsale", Name: "ready",
			Help: "Whether the last check of readiness found all well: 1 or 0."}, nil),
	}
	m.kept.Store(&map[request]series{})
	return m
}

// measure counts and times requests. Event streams last as long as their readers
// like, and would hide what others take.
func (m *metrics) measure(c *gin.Context) {
	began := time.Now()
	// A path that is no route would let strangers make labels.
	route := c.FullPath()
	if route == "" {
		route = "none"
	}
	stream := strings.HasSuffix(route, "/events")
	inHand := m.inFlight
	if stream {
		inHand = m.streams
	}
	inHand.Inc()
	defer inHand.Dec() // also when the connection is aborted by a panic
	c.Next()
	s := m.of(request{knownMethod(c.Request.Method), route, c.Writer.Status()})
	s.count.Inc()
	if !stream {
		s.seconds.Observe(time.Since(began).Seconds())
	}
}

// of is the series of requests like r.
func (m *metrics) of(r request) series {
	if s, ok := (*m.kept.Load())[r]; ok {
		return s
	}
	m.adding.Lock()
	defer m.adding.Unlock()
	more := maps.Clone(*m.kept.Load())
	s := series{
		count:   m.requests.WithLabelValues(r.method, r.route, strconv.Itoa(r.status)),
		seconds: m.seconds.WithLabelValues(r.method, r.route),
	}
	more[r] = s
	m.kept.Store(&more)
	return s
}

// problem counts an answer that is a problem. Its slug is one of a table.
func (m *metrics) problem(p *problem) {
	m.problems.WithLabelValues(strings.TrimPrefix(p.Type, "/errors/")).Inc()
}

// isReady notes what a check of readiness has found.
func (m *metrics) isReady(ready bool) {
	if ready {
		m.ready.WithLabelValues().Set(1)
	} else {
		m.ready.WithLabelValues().Set(0)
	}
}

// knownMethod keeps methods that a stranger made up out of the labels.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}
