package httpapi_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"flashsale/internal/httpapi"
	"flashsale/internal/lock"
)

// locks is a fake lock server.
type locks struct {
	held    []lock.Info
	err     error
	revoked string
}

func (l *locks) Inspect(context.Context) ([]lock.Info, error) { return l.held, l.err }

func (l *locks) Revoke(_ context.Context, sku string) error {
	for _, held := range l.held {
		if held.Name == sku {
			l.revoked = sku
			return l.err
		}
	}
	return lock.ErrNotHeld
}

func TestLocksAreShownAndRevoked(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	server := &locks{held: []lock.Info{
		{Name: "lamp", Holder: "a@h:1", Replica: "a", Token: 7, Since: since, Queue: []string{"b@h:2"}, Addr: "10.0.0.1:9000"}, {Name: "sofa"},
	}}
	s := newServerWith(t, func(cfg *httpapi.Config) { cfg.Locks = server })
	admin := []string{"Authorization", "Bearer " + adminToken}
	got := s.call("GET", "/v1/admin/locks", "", admin...)
	const want = `{"locks":[` +
		`{"sku":"lamp","holder":"a@h:1","replica":"a","token":7,"since":"2026-01-02T03:04:05Z","queue":["b@h:2"],"address":"10.0.0.1:9000","forwarded":0},` +
		`{"sku":"sofa","holder":"","replica":"","token":0,"since":null,"queue":[],"address":"","forwarded":0}]}`
	if got.StatusCode != http.StatusOK || strings.TrimSpace(got.text) != want {
		t.Errorf("got %d %s, want %s", got.StatusCode, got.text, want)
	}
	for _, test := range []struct {
		method, path string
		headers      []string
		status       int
		slug         string
	}{
		{"DELETE", "/v1/admin/locks/lamp", admin, http.StatusNoContent, ""},
		{"DELETE", "/v1/admin/locks/desk", admin, http.StatusNotFound, "lock-not-held"},
		{"DELETE", "/v1/admin/locks/%00", admin, http.StatusNotFound, "lock-not-held"},
		{"GET", "/v1/admin/locks", nil, http.StatusUnauthorized, "unauthorized"},
		{"DELETE", "/v1/admin/locks/sofa", nil, http.StatusUnauthorized, "unauthorized"},
	} {
		got := s.call(test.method, test.path, "", test.headers...)
		if got.StatusCode != test.status || !strings.Contains(got.text, test.slug) {
			t.Errorf("%s %s: got %d %s, want %d %s", test.method, test.path, got.StatusCode, got.text, test.status, test.slug)
		}
	}
	if server.revoked != "lamp" {
		t.Errorf("revoked %q, want only lamp", server.revoked)
	}
	server.err = errors.New("no connection")
	for method, status := range map[string]int{"GET /v1/admin/locks": http.StatusServiceUnavailable, "DELETE /v1/admin/locks/lamp": http.StatusGatewayTimeout} {
		verb, path, _ := strings.Cut(method, " ")
		if got := s.call(verb, path, "", admin...); got.StatusCode != status || strings.Contains(got.text, "connection") {
			t.Errorf("%s without a connection: %d %s", method, got.StatusCode, got.text)
		}
	}
}

func TestLocksNotShownIs501(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, method := range []string{"GET /v1/admin/locks", "DELETE /v1/admin/locks/lamp"} {
		verb, path, _ := strings.Cut(method, " ")
		got := s.call(verb, path, "", "Authorization", "Bearer "+adminToken)
		if got.StatusCode != http.StatusNotImplemented || !strings.Contains(got.text, "/errors/locks-not-shown") {
			t.Errorf("%s: got %d %s, want 501", method, got.StatusCode, got.text)
		}
	}
}
