package httpapi

import (
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"flashsale/internal/telemetry"
)

const (
	// maxRequestID is the longest id that is taken from a caller.
	maxRequestID = 128
	// slow is what nobody should have to wait for.
	slow = time.Second
	// troubleRate and troubleBurst bound the lines about requests that failed or
	// were slow: in an overload there are thousands a second, and a line for each
	// would add to it. The others are counted.
	troubleRate  = 10
	troubleBurst = 50
)

// watch has every request measured, traced, named and logged, in this order: each
// sees what those after it take.
func (a *api) watch(r *gin.Engine) {
	r.Use(a.metrics.measure)
	if a.cfg.Traces != nil {
		r.Use(traced(a.cfg.Traces))
	}
	r.Use(identify, accessLog(a.cfg.Logger))
}

// identify gives each request an id: the caller's, or one that is made. It is in
// the answer, and in every line of the log that is about the request.
func identify(c *gin.Context) {
	id := c.GetHeader("X-Request-Id")
	if !saneID(id) {
		id = newRequestID()
	}
	c.Header("X-Request-Id", id)
	c.Request = c.Request.WithContext(telemetry.WithRequestID(c.Request.Context(), id))
}

// saneID: nothing that a log, a header or a shell could take for more than a name.
func saneID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		b := id[i]
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && strings.IndexByte("-_.:+/=@", b) < 0 {
			return false
		}
	}
	return true
}

func newRequestID() string {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	return hex.EncodeToString(id[:])
}

// accessLog writes a line for each request: at debug, and at info when it failed
// on our side or was slow. Nothing of its headers, its query or its body is in it.
func accessLog(logger *slog.Logger) gin.HandlerFunc {
	trouble := rate.Sometimes{First: troubleBurst, Interval: time.Second / troubleRate}
	return func(c *gin.Context) {
		began := time.Now()
		c.Next()
		took := time.Since(began)
		level := slog.LevelDebug
		if c.Writer.Status() >= http.StatusInternalServerError || took >= slow && !mayTakeLong(c.FullPath()) {
			trouble.Do(func() { level = slog.LevelInfo })
		}
		if !logger.Enabled(c.Request.Context(), level) {
			return
		}
		attrs := []slog.Attr{
			slog.String("method", c.Request.Method), slog.String("route", c.FullPath()), slog.String("path", c.Request.URL.Path),
			slog.Int("status", c.Writer.Status()), slog.Float64("duration_ms", float64(took.Microseconds())/1000),
			slog.Int("bytes", c.Writer.Size()), slog.String("remote", clientAddress(c).String()),
		}
		if id := orderID(c); id != "" {
			attrs = append(attrs, slog.String("order_id", id))
		}
		logger.LogAttrs(c.Request.Context(), level, "request", attrs...)
	}
}

// mayTakeLong: an event stream ends when its reader likes, an audit reads everything.
func mayTakeLong(route string) bool {
	return strings.HasSuffix(route, "/events") || route == "/v1/admin/audit"
}

// orderID is the order that a request made or was about.
func orderID(c *gin.Context) string {
	const orders = "/v1/orders/"
	if id, made := strings.CutPrefix(c.Writer.Header().Get("Location"), orders); made {
		return id
	}
	if strings.HasPrefix(c.FullPath(), orders) {
		return c.Param("id")
	}
	return ""
}

// traced makes a span of each request, in the trace that its traceparent names.
func traced(provider trace.TracerProvider) gin.HandlerFunc {
	return otelgin.Middleware("flashsale", otelgin.WithTracerProvider(provider), otelgin.WithPropagators(propagation.TraceContext{}),
		otelgin.WithFilter(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/") }))
}
