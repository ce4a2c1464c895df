package httpapi

import "github.com/gin-gonic/gin"

// apiPolicy lets an answer that a browser was made to show load nothing, run
// nothing and be framed by nobody.
const apiPolicy = "default-src 'none'; frame-ancestors 'none'"

// secureFor is how long a browser is to come by TLS alone, once it has: a year.
const secureFor = "max-age=31536000"

// secure sets what every answer says to browsers and caches. Answers are private
// unless their handler calls cached, and load nothing unless it calls allow.
//
// No origin but our own may read answers: there are no CORS headers. A storefront
// of another origin calls its own server, or stands behind the same proxy.
func secure(c *gin.Context) {
	header := c.Writer.Header()
	header["X-Content-Type-Options"] = nosniff
	header["Referrer-Policy"] = noReferrer
	header["Content-Security-Policy"] = apiPolicies
	header["Cache-Control"] = noStore
	if c.Request.TLS != nil {
		header["Strict-Transport-Security"] = strictTransport
	}
}

// The values are shared by all answers: nobody changes them, and a header that is
// set again gets a slice of its own.
var (
	nosniff         = []string{"nosniff"}
	noReferrer      = []string{"no-referrer"}
	apiPolicies     = []string{apiPolicy}
	noStore         = []string{"no-store"}
	strictTransport = []string{secureFor}
)

// allow sets the Content-Security-Policy of a page. It begins with the strictest,
// and names what the page needs: "script-src 'self'".
func allow(c *gin.Context, sources string) {
	c.Header("Content-Security-Policy", apiPolicy+"; base-uri 'none'; form-action 'none'; "+sources)
}

// cached lets caches keep an answer that is the same for everybody. They ask
// whether it still holds before each use.
func cached(c *gin.Context) { c.Header("Cache-Control", "no-cache") }
