package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"flashsale/internal/httpapi"
	"flashsale/internal/limit"
)

func TestEveryAnswerHasSecurityHeaders(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing)
	bearer := "Bearer " + customer(t, "ann")
	for _, test := range []struct {
		method, path, body, authorization, cache string
		status                                   int
	}{
		{"GET", "/healthz", "", "", "no-store", 200},
		{"GET", "/readyz", "", "", "no-store", 200},
		{"GET", "/metrics", "", "", "no-store", 200},
		{"GET", "/v1/skus", "", "", "no-cache", 200},
		{"GET", "/v1/skus/lamp", "", "", "no-cache", 200},
		{"GET", "/v1/skus/sofa", "", "", "no-store", 404},
		{"POST", "/v1/orders", `{"sku":"lamp","quantity":1}`, bearer, "no-store", 201},
		{"POST", "/v1/orders", `{`, bearer, "no-store", 400},
		{"POST", "/v1/orders", `{}`, "", "no-store", 401},
		{"GET", "/v1/admin/audit", "", "Bearer " + adminToken, "no-store", 200},
		{"GET", "/v1/admin/audit", "", bearer, "no-store", 403},
		{"GET", "/nowhere", "", "", "no-store", 404},
		{"DELETE", "/v1/orders", "", "", "no-store", 405},
	} {
		r := s.call(test.method, test.path, test.body, "Authorization", test.authorization, "Idempotency-Key", "k", "Origin", "https://elsewhere.example")
		if r.StatusCode != test.status {
			t.Errorf("%s %s: got %d %s, want %d", test.method, test.path, r.StatusCode, r.text, test.status)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": test.cache,
			"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cross-Origin-Resource-Policy": "same-origin",
			// HSTS needs TLS, and there is no CORS.
			"Strict-Transport-Security": "", "Access-Control-Allow-Origin": "", "Access-Control-Allow-Credentials": "",
			"Server": "", "X-Powered-By": "",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s %s (%d): %s is %q, want %q", test.method, test.path, r.StatusCode, name, got, want)
			}
		}
	}
}

// A page of another origin that opens one of ours gets no handle to its window, and no page
// can use a camera or the like.
func TestPagesAreIsolated(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, path := range []string{"/", "/admin", "/docs", "/errors", "/errors/sold-out", "/openapi.yaml", "/assets/stream-worker.js"} {
		got := s.call("GET", path, "").Header
		if got.Get("Cross-Origin-Opener-Policy") != "same-origin" || got.Get("Cross-Origin-Resource-Policy") != "same-origin" ||
			!strings.Contains(got.Get("Permissions-Policy"), "camera=()") || strings.Contains(got.Get("Permissions-Policy"), "*") {
			t.Errorf("%s: headers %v", path, got)
		}
	}
}

func TestLimitsHoldForCustomersAndAddresses(t *testing.T) {
	t.Parallel()
	limits := new(limit.Limits)
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Limits = limits })
	s.putSKU("lamp", thing)
	limits.Set(limit.ByCustomer, limit.Limit{Requests: 2, Window: time.Hour})
	orders := func(name string) response {
		return s.call("GET", "/v1/orders/none", "", "Authorization", "Bearer "+customer(t, name))
	}
	for range 2 {
		if r := orders("ann"); r.StatusCode == http.StatusTooManyRequests || r.Header.Get("RateLimit") == "" {
			t.Fatalf("within the limit: got %d %s, headers %v", r.StatusCode, r.text, r.Header)
		}
	}
	r := orders("ann")
	r.check(t, http.StatusTooManyRequests, "too-many-requests", "")
	for name, want := range map[string]string{"RateLimit-Policy": `"customer";q=2;w=3600`, "Retry-After": "1800"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if r := orders("ben"); r.StatusCode == http.StatusTooManyRequests {
		t.Error("a customer's requests count for another customer")
	}
	if r := s.call("GET", "/v1/skus", ""); r.StatusCode != http.StatusOK || r.Header.Get("RateLimit") != "" {
		t.Errorf("a call without a customer: got %d, %v", r.StatusCode, r.Header)
	}

	limits.Set(limit.ByAddress, limit.Limit{Requests: 3, Window: time.Hour})
	// All requests of the address count, also those with invalid tokens.
	for range 3 {
		s.call("GET", "/v1/admin/audit", "", "Authorization", "Bearer guess").check(t, http.StatusUnauthorized, "unauthorized", "")
	}
	s.call("GET", "/v1/admin/audit", "", "Authorization", "Bearer "+adminToken).check(t, http.StatusTooManyRequests, "too-many-requests", "")
	s.call("GET", "/v1/skus", "", "X-Forwarded-For", "198.51.100.1").check(t, http.StatusTooManyRequests, "too-many-requests", "")
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.yaml"} {
		for range 5 {
			if r := s.call("GET", path, ""); r.StatusCode == http.StatusTooManyRequests || r.Header.Get("RateLimit") != "" {
				t.Errorf("%s is limited: %d, %v", path, r.StatusCode, r.Header)
			}
		}
	}
	limits.Set(limit.ByAddress, limit.Limit{})
	if r := orders("eve"); len(r.Header.Values("RateLimit")) != 1 || !strings.HasPrefix(r.Header.Get("RateLimit"), `"customer"`) {
		t.Errorf("only by customer: %v", r.Header)
	}
	limits.Set(limit.ByAddress, limit.Limit{Requests: 30, Window: time.Hour})
	if got, want := orders("eve").Header.Values("RateLimit-Policy"), []string{`"address";q=30;w=3600`, `"customer";q=2;w=3600`}; !slices.Equal(got, want) {
		t.Errorf("both limits: got %q, want %q", got, want)
	}
}

func TestOnlyTrustedProxiesSetTheAddress(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{false, true} {
		limits := new(limit.Limits)
		limits.Set(limit.ByAddress, limit.Limit{Requests: 1, Window: time.Hour})
		s := newServerWith(t, func(cfg *httpapi.Config) {
			cfg.Limits = limits
			if trusted {
				cfg.TrustedProxies = []string{"127.0.0.1", "::1"}
			}
		})
		first := s.call("GET", "/v1/skus", "", "X-Forwarded-For", "198.51.100.1")
		other := s.call("GET", "/v1/skus", "", "X-Forwarded-For", "198.51.100.2")
		forged := s.call("GET", "/v1/skus", "", "X-Forwarded-For", "203.0.113.9, 198.51.100.1")
		got := []bool{first.StatusCode == http.StatusOK, other.StatusCode == http.StatusOK, forged.StatusCode == http.StatusOK}
		if want := []bool{true, trusted, false}; !slices.Equal(got, want) {
			t.Errorf("trusted is %v: allowed %v, want %v", trusted, got, want)
		}
	}
}

// A household or company owns many /64 networks, but gets one limit.
func TestAddressesOfOneIPv6NetworkShareALimit(t *testing.T) {
	t.Parallel()
	for _, ipv6Prefix := range []int{0, 48} {
		limits := new(limit.Limits)
		limits.Set(limit.ByAddress, limit.Limit{Requests: 20, Window: time.Hour})
		s := newServerWith(t, func(cfg *httpapi.Config) {
			cfg.Limits, cfg.TrustedProxies, cfg.IPv6Prefix = limits, []string{"127.0.0.1"}, ipv6Prefix
		})
		allowed := func(address string) bool {
			return s.call("GET", "/v1/skus", "", "X-Forwarded-For", address).StatusCode == http.StatusOK
		}
		admitted := 0
		for i := range 400 {
			if allowed(fmt.Sprintf("2001:db8:0:12%02x::%x", i%256, i+1)) {
				admitted++
			}
		}
		if admitted != 20 {
			t.Errorf("--ipv6-prefix %d: %d of 400 requests from one /56 were allowed, want 20", ipv6Prefix, admitted)
		}
		if got, want := allowed("2001:db8:0:1300::1"), ipv6Prefix == 0; got != want {
			t.Errorf("--ipv6-prefix %d: the next /56 is allowed: %v, want %v", ipv6Prefix, got, want)
		}
		if !allowed("2001:db8:1::1") {
			t.Errorf("--ipv6-prefix %d: another /48 was refused", ipv6Prefix)
		}
	}
}
