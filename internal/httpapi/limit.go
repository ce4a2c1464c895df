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

var kindTooMany = kind{slug: "too-many-requests", status: http.StatusTooManyRequests, title: "Too many requests",
	detail: "Nothing was applied. Wait as long as Retry-After says."}

// limitAddress counts a request by where it comes from, before it is known who
// calls: whoever guesses tokens is slowed down as well. Operations that the
// document does not let answer 429, those of operators, are not limited.
func (a *api) limitAddress(c *gin.Context) {
	// Without a limit the address is not looked for.
	if a.cfg.Limits.Get(limit.ByAddress) == (limit.Limit{}) || !callOf(c).operation.Answers(http.StatusTooManyRequests) {
		return
	}
	if err := count(c, a.cfg.Limits, limit.ByAddress, network(clientAddress(c)).String()); err != nil {
		a.fail(c, err)
	}
}

// limitCustomer counts a request of a customer's.
func (a *api) limitCustomer(c *gin.Context) {
	if a.cfg.Limits.Get(limit.ByCustomer) == (limit.Limit{}) {
		return
	}
	customer := callOf(c).customer
	if customer == "" || !callOf(c).operation.Answers(http.StatusTooManyRequests) {
		return
	}
	if err := count(c, a.cfg.Limits, limit.ByCustomer, customer); err != nil {
		a.fail(c, err)
	}
}

// count says in the answer's headers what is left to the caller, and returns a
// problem when nothing was.
func count(c *gin.Context, limits *limit.Limits, kind limit.Kind, caller string) error {
	v, limited := limits.Take(kind, caller)
	if !limited {
		return nil
	}
	// A line for each limit that holds: the draft's lists may have several.
	header, name := c.Writer.Header(), `"`+kind.String()+`"`
	header.Add("RateLimit-Policy", name+";q="+strconv.Itoa(v.Limit.Requests)+";w="+strconv.Itoa(int(v.Limit.Window.Seconds())))
	header.Add("RateLimit", name+";r="+strconv.Itoa(v.Left)+";t="+strconv.Itoa(v.Full))
	if v.OK {
		return nil
	}
	header.Set("Retry-After", strconv.Itoa(v.Wait))
	return kindTooMany.problem(fmt.Sprintf("The limit is %d requests in %s by %s. Nothing was applied. Wait as long as Retry-After says.",
		v.Limit.Requests, v.Limit.Window, kind))
}

// network is what an address is counted by. An IPv6 caller has a network of 64
// bits, and all of its addresses, to himself.
func network(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // fails for more bits than there are
	return prefix
}

// clientAddress is where the request comes from: the other end of the
// connection, or, where that is a trusted proxy, the nearest address in
// X-Forwarded-For that is none.
func clientAddress(c *gin.Context) netip.Addr {
	dropPorts(c.Request.Header["X-Forwarded-For"])
	if address, err := netip.ParseAddr(c.ClientIP()); err == nil {
		return address.Unmap().WithZone("")
	}
	// gin knows no zones, which addresses of one link have.
	end, _ := netip.ParseAddrPort(c.Request.RemoteAddr)
	return end.Addr().Unmap().WithZone("")
}

// dropPorts leaves the addresses alone in lines of X-Forwarded-For: some gateways
// add the caller's port. gin would not read them, and all callers would be the
// gateway.
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

// trustProxies makes r believe what these networks say of whom they forward, and
// nobody else. gin would trust everybody, and X-Real-IP as well, which a proxy
// that does not know it hands on as it came.
func trustProxies(r *gin.Engine, networks []string) error {
	r.RemoteIPHeaders = []string{"X-Forwarded-For"}
	if err := r.SetTrustedProxies(networks); err != nil {
		return fmt.Errorf("trusted proxies: %w", err)
	}
	return nil
}
