package httpapi

import (
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

// from returns a request from an address.
func from(engine *gin.Engine, remote string) (*gin.Context, *httptest.ResponseRecorder) {
	w := httptest.NewRecorder()
	c := gin.CreateTestContextOnly(w, engine)
	c.Request = httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	c.Request.RemoteAddr = remote
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
	if p := problemOf(err); p.Status != http.StatusTooManyRequests || p.Type != "/errors/too-many-requests" || !strings.Contains(p.Detail, "2 requests of a customer in 10s") {
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

// BenchmarkLimit measures the cost of limits for a request.
func BenchmarkLimit(b *testing.B) {
	for _, bench := range []struct {
		name  string
		limit limit.Limit
	}{{"off", limit.Limit{}}, {"on", limit.Limit{Requests: 1_000_000, Window: time.Second}}} {
		b.Run(bench.name, func(b *testing.B) {
			a, engine := api{cfg: Config{Limits: new(limit.Limits)}}, newEngine()
			if err := a.readContract(); err != nil {
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
