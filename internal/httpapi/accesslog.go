package httpapi

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"
)

const (
	// slow is the duration from which a request is logged at info.
	slow = time.Second
	// infoRate and infoBurst bound the info lines, as they add to an overload.
	infoRate  = 10
	infoBurst = 50
)

// accessLog logs each request: at debug, and at info if it was slow or answered
// 5xx. It logs no headers, query or body.
func accessLog(logger *slog.Logger) gin.HandlerFunc {
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
			slog.Int("bytes", c.Writer.Size()), slog.String("remote", clientAddress(c).String()),
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
