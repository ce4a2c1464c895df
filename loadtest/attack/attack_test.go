package attack

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	vegeta "github.com/tsenart/vegeta/v12/lib"
	"go.uber.org/goleak"

	"flashsale/internal/sandbox/sandboxtest/leaks"
)

const secret = "a secret of 32 bytes for the test"

// arrived is a request that a replica received.
type arrived struct {
	Replica int
	Order   Order
}

// TestRequestsArriveAsPlanned also checks that each answer belongs to its request: the
// replica derives the id in its answer from the order.
func TestRequestsArriveAsPlanned(t *testing.T) {
	var (
		mu  sync.Mutex
		got = map[string]arrived{}
	)
	plan := Plan{SKUs: []string{"one", "two"}, MaxQuantity: 3, Rate: 300, Duration: 200 * time.Millisecond, Seed: 7}
	for replica := range 2 {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			o, err := parse(r)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if _, twice := got[o.Key]; twice {
				t.Errorf("key %s arrived twice", o.Key)
			}
			got[o.Key] = arrived{replica, o}
			w.WriteHeader(http.StatusCreated)
			fmt.Fprintf(w, `{"id":%q}`, idFor(o))
		}))
		defer server.Close()
		plan.Targets = append(plan.Targets, server.URL)
	}
	seen := 0
	result, err := Run(t.Context(), Config{Plan: plan, JWTSecret: secret, OnAnswer: func(Answer) { seen++ }})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]arrived{}
	for i, a := range result.Answers {
		o := plan.Order(i)
		want[o.Key] = arrived{i % 2, o}
		if a.Seq != i || a.Outcome != Accepted || a.OrderID != idFor(o) {
			t.Errorf("answer %d: %+v", i, a)
		}
		if a.Latency() < 0 {
			t.Errorf("answer %d came %s before its request was due", i, -a.Latency())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if len(result.Answers) != seen {
		t.Errorf("OnAnswer was called %d times for %d answers", seen, len(result.Answers))
	}
}

// A service of --insecure-demo may have a short secret.
func TestSecretMayHaveAnyLength(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 1, 31, 32, 64, 65} {
		secret := strings.Repeat("s", length)
		token := Token("ann", secret)
		at := strings.LastIndexByte(token, '.')
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(token[:at]))
		if want := base64.RawURLEncoding.EncodeToString(mac.Sum(nil)); token[at+1:] != want {
			t.Errorf("%d bytes: signature %s, want %s", length, token[at+1:], want)
		}
	}
}

func parse(r *http.Request) (Order, error) {
	token, err := jwt.ParseSigned(r.Header.Get("Authorization")[len("Bearer "):], []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return Order{}, err
	}
	var claims jwt.Claims
	if err := token.Claims([]byte(secret), &claims); err != nil {
		return Order{}, err
	}
	if err := claims.Validate(jwt.Expected{}); err != nil {
		return Order{}, err
	}
	var body struct {
		SKU      string `json:"sku"`
		Quantity int    `json:"quantity"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return Order{}, err
	}
	return Order{claims.Subject, r.Header.Get("Idempotency-Key"), body.SKU, body.Quantity}, nil
}

func idFor(o Order) uuid.UUID { return uuid.NewSHA1(uuid.Nil, fmt.Append(nil, o)) }

// TestLatencyCountsFromWhenARequestWasDue pauses the service at its first request. A
// harness with coordinated omission would show one slow answer.
func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	const pause = 400 * time.Millisecond
	var once sync.Once
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { time.Sleep(pause) }) // the other requests wait in Do
		w.WriteHeader(http.StatusConflict)
	}))
	defer server.Close()
	plan := Plan{Targets: []string{server.URL}, SKUs: []string{"one"}, MaxQuantity: 1, Rate: 200, Duration: 3 * time.Second}
	result, err := Run(t.Context(), Config{Plan: plan, JWTSecret: secret})
	if err != nil {
		t.Fatal(err)
	}
	slow := 0
	for _, a := range result.Answers {
		if a.Latency() > pause/2 {
			slow++
		}
	}
	// Those due in the first half of the pause: 40 of the 80.
	if slow < 35 {
		t.Errorf("%d answers show more than half of the pause, want about 40", slow)
	}
}

func TestAttackEndsWithItsContext(t *testing.T) {
	defer leaks.None(t, goleak.IgnoreCurrent())
	arrived := make(chan struct{}, 10000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that net/http notices when the client disconnects
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	plan := Plan{Targets: []string{server.URL}, SKUs: []string{"one"}, MaxQuantity: 1, Rate: 100, Duration: time.Minute}
	_, err := Run(ctx, Config{Plan: plan, JWTSecret: secret})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestAnswersAreClassified(t *testing.T) {
	id := uuid.MustParse("0195e7a0-0000-7000-8000-000000000001")
	replay := http.Header{"Idempotent-Replayed": {"true"}}
	for _, tt := range []struct {
		name string
		res  vegeta.Result
		want Answer
	}{
		{"accepted", vegeta.Result{Code: 201, Body: []byte(`{"id":"` + id.String() + `"}`)},
			Answer{Outcome: Accepted, Status: 201, OrderID: id}},
		{"replayed", vegeta.Result{Code: 201, Headers: replay, Body: []byte(`{"id":"` + id.String() + `"}`)},
			Answer{Outcome: Accepted, Status: 201, OrderID: id, Replayed: true}},
		{"accepted without an id", vegeta.Result{Code: 201, Body: []byte(`{}`)}, Answer{Outcome: Accepted, Status: 201}},
		{"sold out", vegeta.Result{Code: 409, Body: []byte(`{"type":"/errors/sold-out"}`)},
			Answer{Outcome: SoldOut, Status: 409, Reason: "sold-out"}},
		{"too few units", vegeta.Result{Code: 409, Body: []byte(`{"type":"https://shop.example/errors/insufficient-stock"}`)},
			Answer{Outcome: SoldOut, Status: 409, Reason: "insufficient-stock"}},
		{"another conflict", vegeta.Result{Code: 409, Body: []byte(`{"type":"/errors/sale-over"}`)},
			Answer{Outcome: Refused, Status: 409, Reason: "sale-over"}},
		{"sold out, but not by 409", vegeta.Result{Code: 500, Body: []byte(`{"type":"/errors/sold-out"}`)},
			Answer{Outcome: Ambiguous, Status: 500, Reason: "sold-out"}},
		{"unavailable", vegeta.Result{Code: 503, Body: []byte(`{"type":"/errors/unavailable"}`)},
			Answer{Outcome: Refused, Status: 503, Reason: "unavailable, without Retry-After"}},
		{"unknown outcome", vegeta.Result{Code: 504, Body: []byte(`{"type":"/errors/unknown"}`)},
			Answer{Outcome: Ambiguous, Status: 504, Reason: "unknown"}},
		{"another program", vegeta.Result{Code: 502, Body: []byte(`<html>`)},
			Answer{Outcome: Ambiguous, Status: 502, Reason: "no problem+json"}},
		{"a proxy that sheds load", vegeta.Result{Code: 503, Body: []byte(`<html>`)},
			Answer{Outcome: Refused, Status: 503, Reason: "no problem+json, without Retry-After"}},
		{"connection reset", vegeta.Result{Error: `Post "http://h/v1/orders": read tcp 1->2: connection reset by peer`},
			Answer{Outcome: Ambiguous, Reason: "connection reset by peer"}},
		{"no answer", vegeta.Result{Error: `Post "http://h/v1/orders": context deadline exceeded`},
			Answer{Outcome: Ambiguous, Reason: "no answer in 8s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, read(&tt.res, Place)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	hundred := make(Latencies, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		l    Latencies
		q    float64
		want time.Duration
	}{
		{nil, 0.5, 0}, {Latencies{3}, 0, 3}, {Latencies{3}, 1, 3},
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 0.999, 100}, {hundred, 1, 100},
	} {
		if got := tt.l.Quantile(tt.q); got != tt.want {
			t.Errorf("Quantile(%v) of %d = %d, want %d", tt.q, len(tt.l), got, tt.want)
		}
	}
}

// A buyer who waits for an answer sends no further request, and no buyer sends after Stop.
func TestBuyersWaitAndStop(t *testing.T) {
	const buyers = 4
	stop, release := make(chan struct{}), make(chan struct{})
	var underWay atomic.Int64
	var begun atomic.Bool
	allWait := sync.OnceFunc(func() {
		close(stop)
		close(release)
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !begun.Load() {
			t.Error("a request arrived before Before returned")
		}
		n := underWay.Add(1)
		defer underWay.Add(-1)
		switch {
		case n == buyers:
			allWait()
		case n > buyers:
			t.Errorf("%d buyers have %d requests under way", buyers, n)
		}
		<-release
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	plan := Plan{Targets: []string{server.URL}, SKUs: []string{"one"}, MaxQuantity: 1, Rate: 100, Duration: time.Minute, Seed: 1}
	result, err := Run(t.Context(), Config{Plan: plan, JWTSecret: secret, Buyers: buyers, Stop: stop, Before: func() error {
		begun.Store(true)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	// The pacer may have passed one more request, which then waited for a buyer.
	if n := len(result.Answers); n < buyers || n > buyers+1 || result.Sending >= plan.Duration {
		t.Errorf("got %d requests over %s, want %d or one more", n, result.Sending, buyers)
	}
	for _, a := range result.Answers {
		if a.Sent <= 0 || a.Done < a.Sent {
			t.Errorf("request %d was sent at %s and answered at %s", a.Seq, a.Sent, a.Done)
		}
	}
}
