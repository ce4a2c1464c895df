package httpapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/limit"
)

func newEngine() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	return gin.New()
}

// from returns a request from an address, with lines of X-Forwarded-For.
func from(engine *gin.Engine, remote string, forwarded ...string) (*gin.Context, *httptest.ResponseRecorder) {
	w := httptest.NewRecorder()
	c := gin.CreateTestContextOnly(w, engine)
	c.Request = httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	c.Request.RemoteAddr = remote
	for _, value := range forwarded {
		c.Request.Header.Add("X-Forwarded-For", value)
	}
	return c, w
}

func TestLimitedCallersGetRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, limitedCallersGetRetryAfter) // with a fake clock
}

func limitedCallersGetRetryAfter(t *testing.T) {
	var l limit.Limits
	l.Set(limit.ByCustomer, limit.Limit{Requests: 2, Window: 10 * time.Second})
	engine := newEngine()
	for _, want := range []string{`"customer";r=1;t=5`, `"customer";r=0;t=10`} {
		c, w := from(engine, "192.0.2.1:1")
		if err := take(c, &l, limit.ByCustomer, "ann"); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("RateLimit"); got != want {
			t.Errorf("RateLimit: got %s, want %s", got, want)
		}
		if got, want := w.Header().Get("RateLimit-Policy"), `"customer";q=2;w=10`; got != want {
			t.Errorf("RateLimit-Policy: got %s, want %s", got, want)
		}
		if got := w.Header().Get("Retry-After"); got != "" {
			t.Errorf("Retry-After is %s within the limit", got)
		}
	}
	c, w := from(engine, "192.0.2.1:1")
	err := take(c, &l, limit.ByCustomer, "ann")
	if err == nil {
		t.Fatal("the third request was not limited")
	}
	if p := problemOf(err); p.Status != http.StatusTooManyRequests || p.Type != "/errors/too-many-requests" || !strings.Contains(p.Detail, "2 requests in 10s by customer") {
		t.Errorf("got %+v", p)
	}
	// The limit refills one request every five seconds.
	if got := w.Header().Get("Retry-After"); got != "5" {
		t.Errorf("Retry-After is %q", got)
	}
	if got, want := w.Header().Get("RateLimit"), `"customer";r=0;t=10`; got != want {
		t.Errorf("RateLimit: got %s, want %s", got, want)
	}
	if err := take(c, &l, limit.ByCustomer, "ben"); err != nil {
		t.Errorf("another customer: %v", err)
	}
}

func TestForwardedAddressIsReadFromTrustedProxiesOnly(t *testing.T) {
	t.Parallel()
	const none, proxies = "", "10.0.0.0/8,2001:db8:ff::/48,192.0.2.7"
	for _, test := range []struct {
		name, trusted, remote string
		forwarded             []string
		want                  string
	}{
		{"no proxy", none, "203.0.113.5:1", nil, "203.0.113.5"},
		{"a forged header, no proxy trusted", none, "203.0.113.5:1", []string{"198.51.100.1"}, "203.0.113.5"},
		{"a forged header, the caller is not a proxy", proxies, "203.0.113.5:1", []string{"198.51.100.1"}, "203.0.113.5"},
		{"next to a proxy's address", proxies, "192.0.2.8:1", []string{"198.51.100.1"}, "192.0.2.8"},
		{"a proxy", proxies, "10.1.2.3:1", []string{"203.0.113.5"}, "203.0.113.5"},
		{"a proxy trusted by address", proxies, "192.0.2.7:1", []string{"203.0.113.5"}, "203.0.113.5"},
		{"a forged address before the proxy's entry", proxies, "10.1.2.3:1", []string{"198.51.100.1, 203.0.113.5"}, "203.0.113.5"},
		{"a forged line", proxies, "10.1.2.3:1", []string{"198.51.100.1", "203.0.113.5"}, "203.0.113.5"},
		{"a forged proxy", proxies, "10.1.2.3:1", []string{"198.51.100.1, 10.9.9.9, 203.0.113.5"}, "203.0.113.5"},
		{"two proxies", proxies, "10.1.2.3:1", []string{"203.0.113.5, 10.4.5.6"}, "203.0.113.5"},
		{"only proxies", proxies, "10.1.2.3:1", []string{"10.4.5.6"}, "10.4.5.6"},
		{"garbage behind a proxy", proxies, "10.1.2.3:1", []string{"unknown"}, "10.1.2.3"},
		{"garbage after an address", proxies, "10.1.2.3:1", []string{"203.0.113.5, <script>"}, "10.1.2.3"},
		{"garbage before an address", proxies, "10.1.2.3:1", []string{"<script>, 203.0.113.5"}, "203.0.113.5"},
		{"empty", proxies, "10.1.2.3:1", []string{""}, "10.1.2.3"},
		{"an address with a port", proxies, "10.1.2.3:1", []string{"203.0.113.5:99"}, "203.0.113.5"},
		{"ports everywhere, and a forged address", proxies, "10.1.2.3:1", []string{"198.51.100.1:1, 203.0.113.5:99", "10.4.5.6:80"}, "203.0.113.5"},
		{"an address with a port, no proxy trusted", none, "203.0.113.5:1", []string{"198.51.100.1:9"}, "203.0.113.5"},
		{"IPv6 with a port", proxies, "10.1.2.3:1", []string{"[2001:db8::5]:99"}, "2001:db8::5"},
		{"an invalid port", proxies, "10.1.2.3:1", []string{"203.0.113.5:99999"}, "10.1.2.3"},
		{"IPv6", none, "[2001:db8::5]:1", nil, "2001:db8::5"},
		{"IPv6 behind a proxy", proxies, "[2001:db8:ff::1]:1", []string{"2001:DB8:0::5"}, "2001:db8::5"},
		{"IPv4-mapped IPv6", none, "[::ffff:203.0.113.5]:1", nil, "203.0.113.5"},
		{"an IPv4-mapped proxy", proxies, "[::ffff:10.1.2.3]:1", []string{"::ffff:203.0.113.5"}, "203.0.113.5"},
		{"a zone", none, "[fe80::1%eth0]:1", nil, "fe80::1"},
	} {
		engine := newEngine()
		var networks []string
		if test.trusted != "" {
			networks = strings.Split(test.trusted, ",")
		}
		if err := trustProxies(engine, networks); err != nil {
			t.Fatal(err)
		}
		c, _ := from(engine, test.remote, test.forwarded...)
		c.Request.Header.Set("X-Real-IP", "198.51.100.99") // never trusted
		if got := clientAddress(c).String(); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// An IPv6 caller can use any address of its network.
func TestAddressesOfOneIPv6NetworkShareALimit(t *testing.T) {
	t.Parallel()
	var l limit.Limits
	l.Set(limit.ByAddress, limit.Limit{Requests: 1, Window: time.Hour})
	engine := newEngine()
	for _, test := range []struct {
		remote string
		want   bool
	}{
		{"[2001:db8::1]:1", true}, {"[2001:db8::2]:1", false}, {"[2001:db8:0:0:ffff::1]:1", false}, {"[2001:db8:0:1::1]:1", true},
		{"192.0.2.1:1", true}, {"192.0.2.2:1", true}, {"192.0.2.1:2", false}, {"[::ffff:192.0.2.2]:1", false},
	} {
		c, _ := from(engine, test.remote)
		if got := take(c, &l, limit.ByAddress, network(clientAddress(c)).String()) == nil; got != test.want {
			t.Errorf("%s: allowed is %v, want %v", test.remote, got, test.want)
		}
	}
}

// BenchmarkLimit measures the cost of limits for a request.
func BenchmarkLimit(b *testing.B) {
	for _, bench := range []struct {
		name  string
		limit limit.Limit
	}{{"off", limit.Limit{}}, {"on", limit.Limit{Requests: 1_000_000, Window: time.Second}}} {
		b.Run(bench.name, func(b *testing.B) {
			a, engine := api{cfg: Config{Limits: new(limit.Limits)}}, newEngine()
			if err := errors.Join(a.readContract(), trustProxies(engine, nil)); err != nil {
				b.Fatal(err)
			}
			a.cfg.Limits.Set(limit.ByAddress, bench.limit)
			a.cfg.Limits.Set(limit.ByCustomer, bench.limit)
			c, w := from(engine, "192.0.2.1:1")
			c.Set(callKey, &call{operation: a.operations[route{http.MethodPost, "/v1/orders"}], customer: "customer-1234567"})
			b.ReportAllocs()
			for b.Loop() {
				clear(w.Header())
				a.limitAddress(c)
				a.limitCustomer(c)
			}
			if c.IsAborted() {
				b.Fatal("limited")
			}
		})
	}
}
