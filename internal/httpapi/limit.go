package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/gin-gonic/gin"

	"flashsale/internal/limit"
)

// limitAddress counts a request against its address, before authentication: this
// also slows down callers that guess tokens.
func (a *api) limitAddress(c *gin.Context) {
	a.limit(c, limit.ByAddress, func() string { return a.network(c).String() })
}

// limitCustomer counts a request against its customer.
func (a *api) limitCustomer(c *gin.Context) {
	a.limit(c, limit.ByCustomer, func() string { return callOf(c).customer })
}

// limit rejects a request over its caller's limit. Operations for which the document
// does not declare 429 have no limit.
func (a *api) limit(c *gin.Context, kind limit.Kind, caller func() string) {
	if a.cfg.Limits.Get(kind) == (limit.Limit{}) || !callOf(c).operation.Answers(http.StatusTooManyRequests) {
		return
	}
	if name := caller(); name != "" {
		if err := take(c, a.cfg.Limits, kind, name); err != nil {
			a.fail(c, err)
		}
	}
}

// take counts a request against a caller's limit, and reports in the answer's
// headers what is left of it. It returns a problem if nothing is left.
func take(c *gin.Context, limits *limit.Limits, kind limit.Kind, caller string) error {
	v, limited := limits.Take(kind, caller)
	if !limited {
		return nil
	}
	// The draft's headers are lists: each limit adds a line.
	header, quoted := c.Writer.Header(), `"`+kind.String()+`"`
	header.Add("RateLimit-Policy", quoted+";q="+strconv.Itoa(v.Limit.Requests)+";w="+strconv.Itoa(int(v.Limit.Window.Seconds())))
	header.Add("RateLimit", quoted+";r="+strconv.Itoa(v.Left)+";t="+strconv.Itoa(v.Full))
	if v.OK {
		return nil
	}
	header.Set("Retry-After", strconv.Itoa(v.Wait))
	return kindTooMany.problem(fmt.Sprintf("The limit is %d %s in %s. %s", v.Limit.Requests, kind.Counts(), v.Limit.Window, kindTooMany.detail))
}

// network returns the network that a request is counted by.
func (a *api) network(c *gin.Context) netip.Prefix { return a.callers.Network(a.clientAddress(c)) }

// clientAddress returns the address of a request's caller, also behind trusted proxies.
func (a *api) clientAddress(c *gin.Context) netip.Addr {
	peer, _ := netip.ParseAddrPort(c.Request.RemoteAddr)
	return a.callers.Address(peer.Addr(), c.Request.Header["X-Forwarded-For"])
}
