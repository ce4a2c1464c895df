package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"flashsale/internal/limit"
)

// limitAddress counts a request against its address, before authentication: this
// also slows down callers that guess tokens.
func (a *api) limitAddress(c *gin.Context) {
	a.limit(c, limit.ByAddress, func() string { return network(clientAddress(c)).String() })
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
	return kindTooMany.problem(fmt.Sprintf("The limit is %d requests in %s by %s. %s", v.Limit.Requests, v.Limit.Window, kind, kindTooMany.detail))
}

// network returns the prefix that an address is counted by: an IPv6 caller owns 64
// bits of addresses.
func network(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // fails only for too many bits
	return prefix
}

// clientAddress returns the client's address: the peer of the connection or, if
// that is a trusted proxy, the last untrusted address in X-Forwarded-For.
func clientAddress(c *gin.Context) netip.Addr {
	dropPorts(c.Request.Header["X-Forwarded-For"])
	if address, err := netip.ParseAddr(c.ClientIP()); err == nil {
		return address.Unmap().WithZone("")
	}
	// gin does not parse the zones of link-local addresses.
	end, _ := netip.ParseAddrPort(c.Request.RemoteAddr)
	return end.Addr().Unmap().WithZone("")
}

// dropPorts removes the ports that some gateways add to X-Forwarded-For. gin rejects
// such entries.
func dropPorts(lines []string) {
	for i, line := range lines {
		entries := strings.Split(line, ",")
		for j, entry := range entries {
			if end, err := netip.ParseAddrPort(strings.TrimSpace(entry)); err == nil {
				entries[j] = end.Addr().String()
			}
		}
		lines[i] = strings.Join(entries, ",")
	}
}

// trustProxies makes r trust X-Forwarded-For from these networks only. By default
// gin trusts every peer, and X-Real-IP, which many proxies forward unchanged.
func trustProxies(r *gin.Engine, networks []string) error {
	r.RemoteIPHeaders = []string{"X-Forwarded-For"}
	if err := r.SetTrustedProxies(networks); err != nil {
		return fmt.Errorf("trusted proxies: %w", err)
	}
	return nil
}
