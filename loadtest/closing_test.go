package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/strategy"
)

// smallShop is a right service in memory. meddle sees each call first, and returns true if
// it has answered.
type smallShop struct {
	meddle func(s *smallShop, w http.ResponseWriter, r *http.Request) bool

	mu        sync.Mutex
	units     map[string][2]int64 // all, and those that are left
	orders    []map[string]any
	withdrawn []string
	seen      map[string]int // calls by method and path
}

func newSmallShop(meddle func(*smallShop, http.ResponseWriter, *http.Request) bool) *smallShop {
	return &smallShop{meddle: meddle, units: map[string][2]int64{}, seen: map[string]int{}}
}

func (s *smallShop) serve(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL
}

// first reports whether this is the first call of its method and path.
func (s *smallShop) first(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	call := r.Method + " " + r.URL.String()
	s.seen[call]++
	return s.seen[call] == 1
}

func (s *smallShop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.meddle(s, w, r) {
		return
	}
	if r.Method == http.MethodPost {
		time.Sleep(100 * time.Millisecond) // so that the orders of a burst are under way at once, even if some are late
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sku := path.Base(r.URL.Path)
	units, known := s.units[sku]
	switch call := r.Method + " " + path.Dir(r.URL.Path); call {
	case "PUT /v1/admin/skus":
		var asked struct{ Units int64 }
		_ = json.NewDecoder(r.Body).Decode(&asked)
		if !known {
			s.units[sku] = [2]int64{asked.Units, asked.Units}
			w.WriteHeader(http.StatusCreated)
		}
	case "DELETE /v1/admin/skus":
		delete(s.units, sku)
		s.withdrawn = append(s.withdrawn, sku)
		w.WriteHeader(http.StatusNoContent)
	case "GET /v1/skus":
		if !known {
			problem(w, http.StatusNotFound, "unknown-sku")
			return
		}
		_, _ = fmt.Fprintf(w, `{"sku":%q,"units":%d,"available":%d}`, sku, units[0], units[1])
	case "GET /v1/admin":
		items := []map[string]any{}
		for _, o := range s.orders {
			if o["sku"] == r.URL.Query().Get("sku") {
				items = append(items, o)
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"items": items})
	case "POST /v1":
		s.order(w, r)
	}
}

// order is called with mu held.
func (s *smallShop) order(w http.ResponseWriter, r *http.Request) {
	var asked struct{ SKU string }
	_ = json.NewDecoder(r.Body).Decode(&asked)
	units, known := s.units[asked.SKU]
	switch {
	case !known:
		problem(w, http.StatusNotFound, "unknown-sku")
	case units[1] == 0:
		problem(w, http.StatusConflict, "sold-out")
	default:
		s.units[asked.SKU] = [2]int64{units[0], units[1] - 1}
		customer := customerOf(r.Header.Get("Authorization"))
		o := map[string]any{"id": len(s.orders) + 1, "customer": customer, "idempotency_key": r.Header.Get("Idempotency-Key"),
			"sku": asked.SKU, "quantity": 1, "status": "reserved"}
		s.orders = append(s.orders, o)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(o)
	}
}

// customerOf reads a token without a check of its signature.
func customerOf(authorization string) string {
	parts := strings.Split(authorization, ".")
	text, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Sub string }
	_ = json.Unmarshal(text, &claims)
	return claims.Sub
}

func problem(w http.ResponseWriter, status int, slug string) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"type":"/errors/%s"}`, slug)
}

// refuse answers with a status that tells the client to come back much later.
func refuse(w http.ResponseWriter, status int) bool {
	w.Header().Set("Retry-After", "3600")
	w.WriteHeader(status)
	return true
}

// attackShop returns the folder of the results, and what the attack wrote. targets are
// separated by commas.
func attackShop(t *testing.T, targets string, more ...string) (dir, said string, err error) {
	t.Helper()
	dir = t.TempDir()
	var out bytes.Buffer
	err = run(t.Context(), append([]string{"attack", "--target=" + targets, "--jwt-secret=any", "--admin-token=admin", "--seed=10",
		"--rate=100", "--duration=3s", "--stock=20", "--out=" + dir}, more...), &out, &out)
	return dir, out.String(), err
}

// onSale returns what is still on sale.
func (s *smallShop) onSale() (skus []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sku := range s.units {
		skus = append(skus, sku)
	}
	slices.Sort(skus)
	return skus
}

// A load that used up a request limit must not cost the verdict.
func TestRefusedCallsBesideTheLoadAreRepeated(t *testing.T) {
	t.Parallel()
	shop := newSmallShop(func(s *smallShop, w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost || r.URL.Path == "/readyz" || !s.first(r) {
			return false
		}
		switch sku := path.Base(r.URL.Path); {
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusTooManyRequests)
		case strings.HasPrefix(sku, "check"): // Conforms takes the first answer
			return false
		case r.Method == http.MethodDelete:
			panic(http.ErrAbortHandler) // closes the connection
		default:
			w.WriteHeader(http.StatusBadGateway)
		}
		return true
	})
	dir, said, err := attackShop(t, shop.serve(t), "--until-contended")
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if r := readProof(t, dir).Runs[0]; r.Verdict != strategy.Exact {
		t.Errorf("got %s\n%s", r.Verdict, said)
	}
	if left := shop.onSale(); len(left) > 0 {
		t.Errorf("still on sale: %v", left)
	}
}

func TestLoadIsPublishedIfItsChallengeFails(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, method, path, want string
	}{
		{"a SKU is refused", http.MethodPut, "/v1/admin/skus/last-a-5", "the challenge failed: put last-a-5 on sale: PUT "},
		{"a SKU is not shown", http.MethodGet, "/v1/skus/last-a-30", "does not show the SKU"},
		{"its orders are not listed", http.MethodGet, "/v1/admin/orders?limit=200&sku=last-a-3", "the challenge failed: GET "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			shop := newSmallShop(func(_ *smallShop, w http.ResponseWriter, r *http.Request) bool {
				return r.Method == tt.method && r.URL.String() == tt.path && refuse(w, http.StatusTooManyRequests)
			})
			dir, said, err := attackShop(t, shop.serve(t))
			if !errors.Is(err, errNotProven) {
				t.Fatalf("got %v, want %v\n%s", err, errNotProven, said)
			}
			r := readProof(t, dir).Runs[0]
			if r.Verdict != strategy.NotChallenged || r.UnitsSold != 20 || r.Accepted != 20 || !strings.Contains(r.Challenge.Failed, "429 Too Many Requests") {
				t.Errorf("got %s, %d sold, %d accepted, failed %q", r.Verdict, r.UnitsSold, r.Accepted, r.Challenge.Failed)
			}
			if !strings.Contains(said, tt.want) {
				t.Errorf("the output lacks %q:\n%s", tt.want, said)
			}
			if left := shop.onSale(); len(left) > 0 {
				t.Errorf("still on sale: %v", left)
			}
		})
	}
}

// The first target fails after the load. The second is asked for the result.
func TestFirstTargetThatAnswersIsAskedForTheResult(t *testing.T) {
	t.Parallel()
	shop := newSmallShop(func(*smallShop, http.ResponseWriter, *http.Request) bool { return false })
	var isDown atomic.Bool // the first target, from the last sale on, for all but orders
	answer := func(w http.ResponseWriter, r *http.Request) {
		shop.ServeHTTP(w, r)
		if r.Method == http.MethodPost && shop.soldOut("sale-a-1") {
			isDown.Store(true)
		}
	}
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost && isDown.Load() {
			refuse(w, http.StatusBadGateway)
			return
		}
		answer(w, r)
	}))
	t.Cleanup(failing.Close)
	other := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(other.Close)
	dir, said, err := attackShop(t, failing.URL+","+other.URL)
	if !errors.Is(err, errNotProven) {
		t.Fatalf("got %v, want %v\n%s", err, errNotProven, said)
	}
	if r := readProof(t, dir).Runs[0]; r.Verdict != strategy.NotChallenged || r.UnitsSold != 20 || !slices.Equal(r.Targets[:1], []string{failing.URL}) {
		t.Errorf("got %s, %d sold, targets %v\n%s", r.Verdict, r.UnitsSold, r.Targets, said)
	}
	if left := shop.onSale(); len(left) > 0 {
		t.Errorf("still on sale: %v", left)
	}
}

func (s *smallShop) soldOut(sku string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	units, known := s.units[sku]
	return known && units[1] == 0
}

// Only an answer that says that the SKU was not created keeps it from being withdrawn.
func TestSKUIsWithdrawnUnlessItWasNotCreated(t *testing.T) {
	t.Parallel()
	const sku = "last-a-3"
	for _, tt := range []struct {
		name    string
		created bool // by this call
		answer  func(http.ResponseWriter)
	}{
		{"the connection is closed", true, func(http.ResponseWriter) { panic(http.ErrAbortHandler) }},
		{"a proxy gives up", true, func(w http.ResponseWriter) { w.WriteHeader(http.StatusGatewayTimeout) }},
		{"a proxy is busy, and the SKU is there", true, func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }},
		{"it was there before", false, func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }},
		{"it is refused", false, func(w http.ResponseWriter) { w.WriteHeader(http.StatusConflict) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			shop := newSmallShop(func(s *smallShop, w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPut || path.Base(r.URL.Path) != sku || !s.first(r) {
					return false
				}
				s.ServeHTTP(httptest.NewRecorder(), r) // creates it: it is no longer the first call
				tt.answer(w)
				return true
			})
			_, said, err := attackShop(t, shop.serve(t))
			if !errors.Is(err, errNotProven) {
				t.Fatalf("got %v, want %v\n%s", err, errNotProven, said)
			}
			want := []string{sku}
			if tt.created {
				want = nil
			}
			if left := shop.onSale(); !slices.Equal(left, want) {
				t.Errorf("still on sale: %v, want %v\n%s", left, want, said)
			}
		})
	}
}

// The error is printed although the verdict is, too.
func TestSKUsThatStayOnSaleAreNamed(t *testing.T) {
	t.Parallel()
	shop := newSmallShop(func(_ *smallShop, w http.ResponseWriter, r *http.Request) bool {
		last := strings.HasPrefix(path.Base(r.URL.Path), "last-")
		return last && (r.Method == http.MethodPut || r.Method == http.MethodDelete) && refuse(w, http.StatusServiceUnavailable)
	})
	_, said, err := attackShop(t, shop.serve(t))
	if !errors.Is(err, errNotProven) || !strings.Contains(said, "may still be on sale, check-a to last-a-1") {
		t.Errorf("got %v\n%s", err, said)
	}
}
