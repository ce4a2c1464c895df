package browser_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	secret     = "a secret for tests of at least 32 bytes"
	adminToken = "an admin token for tests, of 32 bytes"
	// patience bounds what should take a moment on a machine that has other things
	// to do.
	patience = time.Minute
)

var (
	servers   *sandbox.Stack
	databases atomic.Int64
)

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

// server is a replica with a database of its own.
type server struct {
	*sandbox.Replica
	t   *testing.T
	dsn string
}

func startReplica(t *testing.T, args ...string) *server {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("browser%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	replica := sandboxtest.StartReplica(t, sandbox.ReplicaConfig{Replica: "replica-1", MySQLDSN: dsn, EtcdEndpoints: servers.EtcdEndpoints(),
		AdminToken: adminToken, JWTSecret: secret, Args: args})
	return &server{Replica: replica, t: t, dsn: dsn}
}

func (s *server) sell(sku, name string, units int, more string, status ...int) {
	s.t.Helper()
	body := fmt.Sprintf(`{"name":%q,"price_cents":4999,"currency":"EUR","units":%d%s}`, name, units, more)
	s.call("PUT", "/v1/admin/skus/"+sku, adminToken, "", body, append(status, http.StatusCreated)[0])
}

func (s *server) order(customerToken, key, body string) {
	s.t.Helper()
	s.call("POST", "/v1/orders", customerToken, key, body, http.StatusCreated)
}

// call returns the body of an answer, which must have that status. A PUT is sent again if a
// server was late. It may have created its SKU by then.
func (s *server) call(method, path, token, key, body string, want int) []byte {
	s.t.Helper()
	again := false
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		status, text := s.try(method, path, token, key, body)
		late := method == http.MethodPut && (status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout)
		switch {
		case status == want, again && want == http.StatusCreated && status == http.StatusOK:
			return text
		case !late || time.Now().After(deadline):
			s.t.Fatalf("%s %s: got %d %s; want %d", method, path, status, text, want)
		}
		again = true
	}
}

func (s *server) try(method, path, token, key, body string) (status int, text []byte) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if text, err = io.ReadAll(response.Body); err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, text
}

func customer(t *testing.T, name string) string {
	t.Helper()
	return sandboxtest.Token(t, secret, map[string]any{"sub": name})
}
