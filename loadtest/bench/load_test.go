package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"flashsale/internal/sandbox/sandboxtest/leaks"
	"flashsale/loadtest/attack"
)

const testSecret = "a secret of the test"

// shop answers each order according to its SKU.
type shop struct {
	mu      sync.Mutex
	arrived map[int]map[attack.Order]bool // by replica
}

func (s *shop) handler(replica int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			SKU      string `json:"sku"`
			Quantity int    `json:"quantity"`
		}
		text, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(text, &body); err != nil || r.Header.Get("Content-Type") != "application/json" || len(r.Header.Get("Authorization")) < 50 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.arrived[replica][attack.Order{Key: r.Header.Get("Idempotency-Key"), SKU: body.SKU, Quantity: body.Quantity}] = true
		s.mu.Unlock()
		switch body.SKU {
		case "sold-out":
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"type":"/errors/sold-out","title":"Sold out","status":409}`)
		case "unknown":
			w.WriteHeader(http.StatusGatewayTimeout)
			fmt.Fprint(w, `{"type":"/errors/outcome-unknown"}`)
		case "broken":
			hijacked, _, _ := w.(http.Hijacker).Hijack()
			_ = hijacked.Close()
		case "last":
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"type":"/errors/busy"}`)
		default:
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"id":"%s","sku":"%s"}`, uuid.NewSHA1(uuid.Nil, []byte(r.Header.Get("Idempotency-Key"))), body.SKU)
		}
	}
}

func newShop(t *testing.T, replicas int) (*shop, []string) {
	t.Helper()
	s := &shop{arrived: map[int]map[attack.Order]bool{}}
	var urls []string
	for i := range replicas {
		s.arrived[i] = map[attack.Order]bool{}
		server := httptest.NewServer(s.handler(i))
		t.Cleanup(server.Close)
		urls = append(urls, server.URL)
	}
	return s, urls
}

// noLeaks checks for leaked goroutines at the end of the test, after later clean-ups.
func noLeaks(t *testing.T) {
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { leaks.None(t, current) })
}

func minted(t *testing.T, seed uint64, n int) *attack.Tokens {
	t.Helper()
	tokens, err := attack.Mint(t.Context(), seed, n, testSecret)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestRequestsArriveAsPlannedAndAnswersAreClassified(t *testing.T) {
	noLeaks(t)
	s, urls := newShop(t, 2)
	const limit = 150
	plan := attack.Plan{Targets: urls, SKUs: []string{"good", "sold-out", "unknown", "broken", "last"}, MaxQuantity: 3, Seed: 5}
	measured := 0
	got, err := send(t.Context(), offer{
		plan: plan, tokens: minted(t, 5, limit), workers: 7, warmUp: 50 * time.Millisecond, window: 3 * time.Second, limit: limit,
		measure: func() { measured++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.answers) != limit || !got.exhausted || measured != 2 {
		t.Errorf("got %d answers, exhausted %v, measured %d times", len(got.answers), got.exhausted, measured)
	}
	type outcome struct {
		Outcome attack.Outcome
		Status  int
		Reason  string
	}
	want := map[string]outcome{
		"good": {attack.Accepted, 201, ""}, "sold-out": {attack.SoldOut, 409, "sold-out"}, "unknown": {attack.Ambiguous, 504, "outcome-unknown"},
		"broken": {attack.Ambiguous, 0, "connection closed"}, "last": {attack.Refused, 503, "busy"},
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq := range got.answers {
		a, o := &got.answers[seq], plan.Order(seq)
		if diff := cmp.Diff(want[o.SKU], outcome{a.Outcome, a.Status, a.Reason}); diff != "" {
			t.Errorf("request %d for %s (-want +got):\n%s", seq, o.SKU, diff)
		}
		if o.SKU == "good" && a.OrderID != uuid.NewSHA1(uuid.Nil, []byte(o.Key)) {
			t.Errorf("request %d has the order %s of another request", seq, a.OrderID)
		}
		o.Customer = ""
		if !s.arrived[seq%2][o] {
			t.Errorf("request %d did not arrive at replica %d as %+v", seq, seq%2, o)
		}
		if a.Done <= a.Due {
			t.Errorf("request %d was answered before it was sent: %+v", seq, a)
		}
	}
}

// A busy machine may need several tries.
func TestOpenLoopKeepsItsRate(t *testing.T) {
	wrong := "no try"
	for end := time.Now().Add(20 * time.Second); wrong != "" && time.Now().Before(end); {
		if wrong = openLoop(t); wrong != "" {
			t.Log(wrong)
		}
	}
	if wrong != "" {
		t.Error("no try had the right rate")
	}
}

// openLoop describes how an open loop differed from its rate. Empty: it did not.
func openLoop(t *testing.T) string {
	t.Helper()
	_, urls := newShop(t, 1)
	const rate = 500
	plan := attack.Plan{Targets: urls, SKUs: []string{"good"}, MaxQuantity: 1, Seed: 5, Rate: rate}
	got, err := send(t.Context(), offer{
		plan: plan, tokens: minted(t, 5, 2*rate), workers: 8, rate: rate, warmUp: 100 * time.Millisecond, window: 500 * time.Millisecond,
		limit: 2 * rate, measure: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.answers); n < 250 || n > 301 {
		return fmt.Sprintf("%d requests in 600 ms at %d a second", n, rate)
	}
	if a := got.answers[49]; a.Due != 100*time.Millisecond {
		t.Errorf("request 49 was due at %s", a.Due)
	}
	answers, latencies := got.inWindow()
	if len(answers) < 200 || len(answers) > 251 || len(latencies) < 200 || len(latencies) > 251 {
		return fmt.Sprintf("%d answers and %d latencies in the window", len(answers), len(latencies))
	}
	return ""
}

func TestCanceledLoadEndsAtOnce(t *testing.T) {
	noLeaks(t)
	hang := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var began time.Time
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		once.Do(func() { began = time.Now(); cancel() })
		<-hang
	}))
	defer server.Close()
	defer close(hang)
	_, err := send(ctx, offer{
		plan:   attack.Plan{Targets: []string{server.URL}, SKUs: []string{"good"}, MaxQuantity: 1, Seed: 5},
		tokens: minted(t, 5, 10), workers: 3, warmUp: 50 * time.Millisecond, window: time.Hour, limit: 10, measure: func() {},
	})
	if !errors.Is(err, context.Canceled) || time.Since(began) > attack.RequestTimeout {
		t.Errorf("got %v after %s", err, time.Since(began))
	}
}
