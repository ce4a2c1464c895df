package httpapi

import (
	"crypto/rand"
	"strings"

	"github.com/gin-gonic/gin"

	"flashsale/internal/telemetry"
)

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
