package soak_test

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/soak"
)

const window = 1500 * time.Millisecond

// service is a replica that the tests share, and its database.
type service struct {
	replica       *sandbox.Replica
	dsn           string
	admin, secret string
	db            *sql.DB
}

func newService(t *testing.T) *service {
	t.Helper()
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	s := &service{admin: sandbox.Secret(), secret: sandbox.Secret()}
	var err error
	if s.dsn, err = stack.MySQL.CreateDatabase(t.Context(), "soak"); err != nil {
		t.Fatal(err)
	}
	s.replica = sandboxtest.StartReplica(t, sandbox.ReplicaConfig{
		Replica: "a", MySQLDSN: s.dsn, EtcdEndpoints: stack.EtcdEndpoints(), AdminToken: s.admin, JWTSecret: s.secret,
		Args: append([]string{"--lock-ttl=10s", "--log-level=warn", "--payment-window=" + window.String()}, sandbox.FewCustomers...),
	})
	if s.db, err = sql.Open("mysql", s.dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.db.Close() })
	return s
}

// behind returns the URL of a proxy before the service. before may change each request,
// change each answer.
func (s *service) behind(t *testing.T, before func(*http.Request), change func(*http.Response, []byte) []byte) string {
	t.Helper()
	target, err := url.Parse(s.replica.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		if before != nil {
			before(r.Out)
		}
	}}
	if change != nil {
		proxy.ModifyResponse = func(res *http.Response) error {
			body, err := io.ReadAll(res.Body)
			if err != nil {
				return err
			}
			body = change(res, body)
			res.Body = io.NopCloser(bytes.NewReader(body))
			res.ContentLength = int64(len(body))
			if res.Header.Get("Content-Length") != "" {
				res.Header.Set("Content-Length", strconv.Itoa(len(body)))
			}
			return nil
		}
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

var seeds atomic.Uint64

func (s *service) soak(t *testing.T, address string, d time.Duration, untilBroken bool) soak.Result {
	t.Helper()
	result, err := soak.Run(t.Context(), soak.Config{
		URLs: []string{address}, DSN: s.dsn, AdminToken: s.admin, JWTSecret: s.secret, Window: window,
		Duration: d, UntilBroken: untilBroken, Seed: 1000 + seeds.Add(1), Actors: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// TestModelFindsABrokenService breaks the service in several ways. The soak must report
// each with its invariant.
func TestModelFindsABrokenService(t *testing.T) {
	s := newService(t)
	// exec runs a statement on the SKU of each payment and cancellation.
	exec := func(statement string) func(*testing.T) string {
		return func(t *testing.T) string {
			return s.behind(t, nil, func(res *http.Response, body []byte) []byte {
				if strings.HasSuffix(res.Request.URL.Path, "/cancellation") || strings.HasSuffix(res.Request.URL.Path, "/payment") {
					sku := skuOf(body)
					if _, err := s.db.ExecContext(t.Context(), statement, sku); err != nil {
						t.Error(err)
					}
				}
				return body
			})
		}
	}
	change := func(f func(*http.Response, []byte) []byte) func(*testing.T) string {
		return func(t *testing.T) string { return s.behind(t, nil, f) }
	}
	var n atomic.Int64
	every := func(k int64) bool { return n.Add(1)%k == 0 }
	for _, tt := range []struct {
		name string
		url  func(*testing.T) string
		want []string // one of these
		all  bool     // it shows only at the end of the soak
	}{
		{"nothing is broken", func(t *testing.T) string { return s.behind(t, nil, nil) }, nil, true},
		{"a replay is another body", change(func(res *http.Response, body []byte) []byte {
			if res.Header.Get("Idempotent-Replayed") != "" {
				return bytes.Replace(body, []byte(`"reserved"`), []byte(`"paid"`), 1)
			}
			return body
		}), []string{soak.SameReplay, soak.OneOutcome}, false},
		{"some answers are 500", change(func(res *http.Response, body []byte) []byte {
			if every(20) {
				res.StatusCode = http.StatusInternalServerError
				res.Header.Set("Content-Type", "application/problem+json")
				return []byte(`{"type":"/errors/internal","title":"T","status":500}`)
			}
			return body
		}), []string{soak.NoFault}, false},
		{"an answer has an unknown field", change(func(res *http.Response, body []byte) []byte {
			if res.StatusCode == http.StatusCreated {
				return bytes.Replace(body, []byte(`{`), []byte(`{"replica":"a",`), 1)
			}
			return body
		}), []string{soak.InContract}, false},
		{"keys are ignored", func(t *testing.T) string {
			return s.behind(t, func(r *http.Request) {
				if r.Header.Get("Idempotency-Key") != "" && r.URL.Path == "/v1/orders" {
					r.Header.Set("Idempotency-Key", fmt.Sprint("other ", seeds.Add(1), time.Now()))
				}
			}, nil)
		}, []string{soak.SameReplay, soak.OneOutcome, soak.AsModelled}, false},
		{"a payment is accepted after the window", s.paysLate, []string{soak.WindowHolds, soak.AsModelled, soak.SameReplay}, false},
		{"units return twice", exec("UPDATE stock SET available = available + 1, seq = seq + 1 WHERE sku = ?"),
			[]string{soak.NothingLeft, soak.AsModelled}, false},
		{"units do not return", exec("UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = ? AND available > 0"),
			[]string{soak.NothingLeft, soak.AsModelled}, false},
		{"orders vanish", exec("DELETE FROM orders WHERE sku = ? LIMIT 1"), []string{soak.AsModelled, soak.SameReplay, soak.Expires}, false},
		{"late payments vanish", exec("DELETE FROM late_payments WHERE order_id IN (SELECT id FROM orders WHERE sku = ?)"),
			[]string{soak.LateListed}, true},
		{"a withdrawn SKU is sold", change(func(res *http.Response, body []byte) []byte {
			if res.Request.Method == http.MethodDelete {
				if _, err := s.db.ExecContext(t.Context(), "UPDATE stock SET withdrawn_at = NULL, seq = seq + 1 WHERE sku = ?", path.Base(res.Request.URL.Path)); err != nil {
					t.Error(err)
				}
			}
			return body
		}), []string{soak.AsModelled}, false},
		{"nothing expires", change(func(_ *http.Response, body []byte) []byte {
			return bytes.Replace(body, []byte(`"expired"`), []byte(`"paid"`), 1)
		}), []string{soak.AsModelled}, false},
		{"connections break", func(t *testing.T) string {
			return s.behind(t, func(*http.Request) {
				if every(20) {
					panic(http.ErrAbortHandler)
				}
			}, nil)
		}, []string{soak.Answered}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := 2 * time.Minute
			if tt.all {
				d = 10 * time.Second
			}
			result := s.soak(t, tt.url(t), d, !tt.all)
			if tt.all && tt.want != nil && result.OK { // a slow machine may not have got there
				result = s.soak(t, tt.url(t), 4*d, false)
			}
			if result.OK != (tt.want == nil) {
				t.Errorf("got OK %v and violations %+v", result.OK, result.Violations)
			}
			found := slices.ContainsFunc(result.Violations, func(v soak.Violation) bool { return slices.Contains(tt.want, v.Invariant) })
			if tt.want != nil && !found {
				t.Errorf("got violations %+v, want one of %q", result.Violations, tt.want)
			}
			for _, v := range result.Violations[:min(1, len(result.Violations))] {
				t.Logf("%s: %s", v.Invariant, v.Detail)
			}
		})
	}
}

// paysLate answers a payment after the window with the old order, marked as paid.
func (s *service) paysLate(t *testing.T) string {
	var mu sync.Mutex
	promised := map[string]string{} // by the order's path
	return s.behind(t, nil, func(res *http.Response, body []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if at := res.Header.Get("Location"); at != "" {
			promised[at] = string(body)
		}
		path := strings.TrimSuffix(res.Request.URL.Path, "/payment")
		if res.StatusCode != http.StatusConflict || !strings.Contains(string(body), "payment-window-over") || promised[path] == "" {
			return body
		}
		res.StatusCode = http.StatusOK
		res.Header.Set("Content-Type", "application/json")
		paid := strings.Replace(promised[path], `"reserved"`, `"paid"`, 1)
		return []byte(strings.Replace(paid, `}`, `,"closed_at":"`+time.Now().UTC().Format(time.RFC3339Nano)+`"}`, 1))
	})
}

// skuOf returns the SKU in an order's body, or "".
func skuOf(body []byte) string {
	_, rest, _ := strings.Cut(string(body), `"sku":"`)
	sku, _, _ := strings.Cut(rest, `"`)
	return sku
}
