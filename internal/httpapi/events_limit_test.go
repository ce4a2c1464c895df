package httpapi_test

import (
	"strings"
	"testing"

	"flashsale/internal/httpapi"
)

// One address cannot open all streams. Clients of a trusted proxy count by their own
// address, and a closed stream does not count.
func TestStreamsAreLimitedByAddress(t *testing.T) {
	t.Parallel()
	source := &levels{skus: 1}
	s := newServerWith(t, func(cfg *httpapi.Config) {
		cfg.Levels, cfg.MaxStreams, cfg.MaxStreamsAddress, cfg.TrustedProxies = source.read, 6, 2, []string{"127.0.0.1"}
	})
	from := func(address string) *stream {
		return watch(t, s.URL+"/v1/events", "X-Forwarded-For", address)
	}
	first, second := from("203.0.113.5"), from("203.0.113.5")
	first.next()
	second.next()
	refused := s.call("GET", "/v1/events", "", "X-Forwarded-For", "203.0.113.5")
	refused.check(t, 429, "too-many-requests", "")
	if got := refused.Header.Get("Retry-After"); got != "30" {
		t.Errorf("Retry-After is %q, want 30", got)
	}
	if !strings.Contains(refused.text, "2 open streams by address") {
		t.Errorf("the answer does not contain the limit: %s", refused.text)
	}
	from("2001:db8:0:1::1").next()
	from("2001:db8:0:2::1").next()
	s.call("GET", "/v1/events", "", "X-Forwarded-For", "2001:db8:0:ff::1").check(t, 429, "too-many-requests", "")
	from("198.51.100.1").next()

	first.close()
	s.awaitStreams("4")
	from("203.0.113.5").next()
	from("198.51.100.1").next()
	s.call("GET", "/v1/events", "", "X-Forwarded-For", "198.51.100.9").check(t, 503, "busy", "") // all streams are open
}

func TestOneAddressMayOpenATenthOfAllStreams(t *testing.T) {
	t.Parallel()
	source := &levels{skus: 1}
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Levels, cfg.MaxStreams = source.read, 120 })
	for range 12 {
		watch(t, s.URL+"/v1/events").next()
	}
	s.call("GET", "/v1/events", "").check(t, 429, "too-many-requests", "")
}
