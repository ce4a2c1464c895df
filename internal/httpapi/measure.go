package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the API's metrics of requests: rate, latency, errors, and the number
// in flight.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	problems *prometheus.CounterVec
	inFlight prometheus.Gauge
	streams  prometheus.Gauge
	ready    *prometheus.GaugeVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	factory := promauto.With(registry)
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "flashsale", Name: name, Help: help}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return factory.NewCounterVec(prometheus.CounterOpts{Namespace: "flashsale", Name: name, Help: help}, labels)
	}
	return &metrics{
		requests: counter("http_requests_total", "Requests by route and status.", "method", "route", "status"),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{Namespace: "flashsale", Name: "http_request_seconds",
			Help: "Time from a request's headers to the end of its answer, without event streams.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)},
			[]string{"method", "route"}),
		problems: counter("http_problems_total", "Problem answers by the slug of their type.", "slug"),
		inFlight: factory.NewGauge(gauge("http_in_flight_requests", "Requests in flight, without event streams.")),
		streams:  factory.NewGauge(gauge("http_event_streams", "Open event streams.")),
		// A vector, as a plain gauge would be 0 before the first check.
		ready: factory.NewGaugeVec(gauge("ready", "Whether the last readiness check succeeded: 1 or 0."), nil),
	}
}

// measure counts and times requests. It does not time event streams, which last as
// long as their clients want.
func (m *metrics) measure(c *gin.Context) {
	began := time.Now()
	// An unknown path must not become a label: anyone could create series.
	route := c.FullPath()
	if route == "" {
		route = "none"
	}
	stream := strings.HasSuffix(route, "/events")
	inFlight := m.inFlight
	if stream {
		inFlight = m.streams
	}
	inFlight.Inc()
	defer inFlight.Dec() // a panic may abort the connection
	c.Next()
	method := methodLabel(c.Request.Method)
	m.requests.WithLabelValues(method, route, strconv.Itoa(c.Writer.Status())).Inc()
	if !stream {
		m.seconds.WithLabelValues(method, route).Observe(time.Since(began).Seconds())
	}
}

// problem counts an answer that is a problem.
func (m *metrics) problem(p *problem) {
	m.problems.WithLabelValues(strings.TrimPrefix(p.Type, "/errors/")).Inc()
}

// setReady records the result of a readiness check.
func (m *metrics) setReady(ready bool) {
	value := 0.0
	if ready {
		value = 1
	}
	m.ready.WithLabelValues().Set(value)
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// methodLabel is a method as a label: "other" for invented ones.
func methodLabel(method string) string {
	if slices.Contains(methods, method) {
		return method
	}
	return "other"
}
