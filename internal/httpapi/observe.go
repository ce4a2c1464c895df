package httpapi

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"flashsale/internal/telemetry"
)

// metrics are the API's metrics of requests: rate, latency, errors, and the number
// in flight.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	problems *prometheus.CounterVec
	inFlight prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) *metrics {
	factory := promauto.With(registry)
	return &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{Name: "flashsale_http_requests_total", Help: "Requests by route and status."},
			[]string{"method", "route", "status"}),
		seconds: factory.NewHistogramVec(prometheus.HistogramOpts{Name: "flashsale_http_request_seconds",
			Help: "Time from a request's headers to the end of its answer, without event streams.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)},
			[]string{"method", "route"}),
		problems: factory.NewCounterVec(prometheus.CounterOpts{Name: "flashsale_http_problems_total", Help: "Problem answers by the slug of their type."},
			[]string{"slug"}),
		inFlight: factory.NewGauge(prometheus.GaugeOpts{Name: "flashsale_http_in_flight_requests", Help: "Requests in flight, without event streams."}),
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
	if !stream {
		m.inFlight.Inc()
		defer m.inFlight.Dec() // a panic may abort the connection
	}
	c.Next()
	method := c.Request.Method
	if !slices.Contains(methods, method) {
		method = "other"
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(c.Writer.Status())).Inc()
	if !stream {
		m.seconds.WithLabelValues(method, route).Observe(time.Since(began).Seconds())
	}
}

// methods are those that become labels.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// nameClient writes the caller's address to the request's span. otelgin knows only the
// peer's.
func (a *api) nameClient(c *gin.Context) {
	if span := trace.SpanFromContext(c.Request.Context()); span.IsRecording() {
		span.SetAttributes(attribute.String("client.address", a.clientAddress(c).String()))
	}
}

// maxRequestID is the longest id that is accepted from a caller.
const maxRequestID = 128

// requestID gives each request an id: the caller's X-Request-Id if it is safe, or
// a new one. The answer and every log line about the request contain it.
func requestID(c *gin.Context) {
	id := c.GetHeader("X-Request-Id")
	if !safeID(id) {
		id = rand.Text()
	}
	c.Header("X-Request-Id", id)
	c.Request = c.Request.WithContext(telemetry.WithRequestID(c.Request.Context(), id))
}

// safeID reports whether an id is a plain name to logs, headers and shells.
func safeID(id string) bool {
	return id != "" && len(id) <= maxRequestID && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:+/=@", r)
	})
}

const (
	// slow is the duration from which a request is logged at info.
	slow = time.Second
	// infoRate and infoBurst bound the info lines, as they add to an overload.
	infoRate  = 10
	infoBurst = 50
)

// accessLog logs each request: at debug, and at info if it was slow or answered
// 5xx. It logs no headers, query or body.
func (a *api) accessLog() gin.HandlerFunc {
	logger := a.cfg.Logger
	atInfo := rate.Sometimes{First: infoBurst, Interval: time.Second / infoRate}
	return func(c *gin.Context) {
		began := time.Now()
		c.Next()
		took := time.Since(began)
		level := slog.LevelDebug
		if c.Writer.Status() >= http.StatusInternalServerError || took >= slow && !mayTakeLong(c.FullPath()) {
			atInfo.Do(func() { level = slog.LevelInfo })
		}
		if !logger.Enabled(c.Request.Context(), level) {
			return
		}
		attrs := []slog.Attr{
			slog.String("method", c.Request.Method), slog.String("route", c.FullPath()), slog.String("path", c.Request.URL.Path),
			slog.Int("status", c.Writer.Status()), slog.Float64("duration_ms", float64(took.Microseconds())/1000),
			slog.Int("bytes", c.Writer.Size()), slog.String("remote", a.clientAddress(c).String()),
		}
		if id := orderID(c); id != "" {
			attrs = append(attrs, slog.String("order_id", id))
		}
		logger.LogAttrs(c.Request.Context(), level, "request", attrs...)
	}
}

// mayTakeLong reports whether a slow answer is normal: event streams stay open,
// and an audit reads the whole database.
func mayTakeLong(route string) bool {
	return strings.HasSuffix(route, "/events") || route == "/v1/admin/audit"
}

// orderID returns the id of the order that a request created or addressed.
func orderID(c *gin.Context) string {
	const orders = "/v1/orders/"
	if id, created := strings.CutPrefix(c.Writer.Header().Get("Location"), orders); created {
		return id
	}
	if strings.HasPrefix(c.FullPath(), orders) {
		return c.Param("id")
	}
	return ""
}
