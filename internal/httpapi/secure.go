package httpapi

import (
	"maps"
	"net/http"

	"github.com/gin-gonic/gin"
)

const (
	// apiPolicy forbids a browser that displays an answer to load or run anything,
	// or to frame it.
	apiPolicy = "default-src 'none'; frame-ancestors 'none'"
	// strictTransport tells a browser to use TLS only, for a year.
	strictTransport = "max-age=31536000"
)

// securityHeaders are set on every answer. They are shared: never change a value in
// place.
var securityHeaders = http.Header{
	"X-Content-Type-Options":  {"nosniff"},
	"Referrer-Policy":         {"no-referrer"},
	"Content-Security-Policy": {apiPolicy},
	"Cache-Control":           {"no-store"},
}

// secure sets the headers for browsers and caches. An answer is not cached unless
// its handler calls cached, and loads nothing unless it calls allow.
//
// There are no CORS headers: a storefront of another origin calls its own server,
// or runs behind the same proxy.
func secure(c *gin.Context) {
	maps.Copy(c.Writer.Header(), securityHeaders)
	if c.Request.TLS != nil {
		c.Header("Strict-Transport-Security", strictTransport)
	}
}

// allow sets a page's Content-Security-Policy: the strictest one, plus the sources
// that the page needs, like "script-src 'self'".
func allow(c *gin.Context, sources string) {
	c.Header("Content-Security-Policy", apiPolicy+"; base-uri 'none'; form-action 'none'; "+sources)
}

// cached lets caches store an answer that is the same for everyone. They must
// revalidate it before each use.
func cached(c *gin.Context) { c.Header("Cache-Control", "no-cache") }
