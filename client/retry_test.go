package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/client"
)

func TestLostAnswersCreateOneOrder(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	between := newProxy(t, s.urls[0], 3, dropAnswer)
	placed, err := s.as(t, "ann", between.url).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 2})
	if err != nil || !placed.Replayed {
		t.Fatalf("%+v, %v", placed, err)
	}
	if keys := slices.Compact(between.keys()); len(keys) != 1 || keys[0] != `"`+placed.Key+`"` {
		t.Errorf("the keys of all tries: %q", keys)
	}
	if got := s.reserved(t, sku); got != 2 {
		t.Errorf("%d units are reserved, want 2", got)
	}
}

func TestKilledReplicaLosesNoOrder(t *testing.T) {
	s := openShop(t, 2)
	const buyers, each = 4, 40
	sku := s.sell(t, 2*buyers*each)
	half := make(chan struct{}, buyers*each)
	var all sync.WaitGroup
	for b := range buyers {
		c := s.as(t, fmt.Sprint("buyer-", b))
		all.Go(func() {
			for range each {
				if _, err := c.Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1}); err != nil {
					t.Error(err)
				}
				half <- struct{}{}
			}
		})
	}
	for range buyers * each / 2 {
		select {
		case <-half:
		case <-time.After(patience):
			t.Fatal("the buyers hang before the kill")
		}
	}
	s.replicas[0].Kill()
	all.Wait()
	s.urls = s.urls[1:]
	if got := s.reserved(t, sku); got != buyers*each {
		t.Errorf("%d units are reserved, want %d", got, buyers*each)
	}
}

func TestRetriedAnswers(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 100)
	for _, tt := range []struct {
		status int
		kind   client.Kind
		tries  int
	}{
		{http.StatusServiceUnavailable, client.ErrBusy, 2},
		{http.StatusServiceUnavailable, client.ErrUnavailable, 2},
		{http.StatusGatewayTimeout, client.ErrOutcomeUnknown, 2},
		{http.StatusConflict, client.ErrRequestInFlight, 2},
		{http.StatusTooManyRequests, client.ErrTooManyRequests, 2},
		{http.StatusRequestTimeout, client.ErrRequestTimeout, 2},
		{http.StatusBadGateway, "", 2}, // from a proxy
		{http.StatusServiceUnavailable, "", 2},
		{http.StatusConflict, client.ErrSoldOut, 1},
		{http.StatusInternalServerError, client.ErrInternal, 1},
		{http.StatusForbidden, "", 1},
	} {
		between := newProxy(t, s.urls[0], 1, answer(tt.status, tt.kind, ""))
		_, err := s.as(t, "ann", between.url).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
		keys := between.keys()
		if len(keys) != tt.tries || (err == nil) != (tt.tries == 2) {
			t.Errorf("%d %s: %d tries, error %v", tt.status, tt.kind, len(keys), err)
		}
		if len(slices.Compact(keys)) != 1 {
			t.Errorf("%d %s: more than one key: %q", tt.status, tt.kind, keys)
		}
	}
}

func TestNextReplicaIsTriedAtOnce(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	full := newProxy(t, s.urls[0], 1000, answer(http.StatusServiceUnavailable, client.ErrBusy, "30"))
	good := newProxy(t, s.urls[0], 0, nil)
	ann := s.as(t, "ann", full.url, good.url)
	began := time.Now()
	for range 5 {
		if _, err := ann.Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took >= 30*time.Second {
		t.Errorf("took %s: it waited for the first replica's Retry-After", took)
	}
	if n, m := len(full.keys()), len(good.keys()); n != 1 || m != 5 {
		t.Errorf("%d requests to the full replica and %d to the other, want 1 and 5", n, m)
	}
}

func TestRetryAfterIsHonored(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	between := newProxy(t, s.urls[0], 1, answer(http.StatusTooManyRequests, client.ErrTooManyRequests, "2"))
	began := time.Now()
	if _, err := s.as(t, "ann", between.url, s.urls[0]).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("retried after %s", took)
	}
	if n := len(between.keys()); n != 2 {
		t.Errorf("%d tries, want 2: a 429 must not switch to another replica", n)
	}
}

func TestRetryAfterBeyondTheDeadlineFailsAtOnce(t *testing.T) {
	far := newProxy(t, "http://127.0.0.1:1", 1000, answer(http.StatusTooManyRequests, client.ErrTooManyRequests, "3600"))
	c, err := client.New(client.Config{URLs: []string{far.url}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = c.Place(ctx, client.Purchase{SKU: "lamp", Quantity: 1})
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok || problem.RetryAfter != time.Hour || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("got %v, want a problem with Retry-After 1h", err)
	}
	if ctx.Err() != nil || len(far.keys()) != 1 {
		t.Error("the call waited for the Retry-After")
	}
}

func TestGaveUpHasTheKeyAndTheOutcome(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	lossy := newProxy(t, s.urls[0], 1000, dropAnswer)
	ann := s.as(t, "ann", lossy.url)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // long enough for the first try
	defer cancel()
	_, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 1})
	gaveUp, ok := errors.AsType[*client.GaveUp](err)
	if !ok || !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) || gaveUp.Key == "" {
		t.Fatalf("%v", err)
	}
	placed, err := s.as(t, "ann").Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1, Key: gaveUp.Key})
	if err != nil || !placed.Replayed {
		t.Errorf("the same key later: %+v, %v", placed, err)
	}

	// The token expires between the tries: a 401 does not prove what happened to
	// the first try.
	var tries atomic.Int32
	expiring := newProxy(t, s.urls[0], 1000, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if tries.Add(1) == 1 {
			dropAnswer(w, r, pass)
		}
		answer(http.StatusUnauthorized, client.ErrUnauthorized, "")(w, r, pass)
	})
	_, err = s.as(t, "ann", expiring.url).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
	if gaveUp, ok = errors.AsType[*client.GaveUp](err); !ok || !gaveUp.Unknown || gaveUp.Key == "" || !errors.Is(err, client.ErrUnauthorized) {
		t.Errorf("401 after a lost answer: %v", err)
	}
	// An internal error may have happened after the commit.
	faulty := newProxy(t, s.urls[0], 1, answer(http.StatusInternalServerError, client.ErrInternal, ""))
	_, err = s.as(t, "ann", faulty.url).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
	if !errors.Is(err, client.ErrInternal) || !errors.Is(err, client.ErrOutcomeUnknown) || len(faulty.keys()) != 1 {
		t.Errorf("an internal error: %v", err)
	}

	unreachable := s.with(t, client.Config{URLs: []string{"http://127.0.0.1:1"}, MaxTries: 3})
	_, err = unreachable.Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
	if gaveUp, ok = errors.AsType[*client.GaveUp](err); !ok || gaveUp.Tries != 3 || gaveUp.Unknown || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("no connection: %v", err)
	}
}

func TestHungReplicaTimesOut(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	hung := newProxy(t, s.urls[0], 1000, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() })
	c := s.with(t, client.Config{URLs: []string{hung.url, s.urls[0]}, TryTimeout: time.Second})
	if _, _, err := c.SKU(t.Context(), sku); err != nil {
		t.Error(err)
	}
}

func TestUncertainConditionalChangeIsNotRetried(t *testing.T) {
	s := theShop(t)
	between := newProxy(t, s.urls[0], 1, dropAnswer)
	_, err := s.administrator(t, between.url).PutSKU(t.Context(), newSKU(), lamp(5), client.IfAbsent())
	if !errors.Is(err, client.ErrOutcomeUnknown) || len(between.keys()) != 1 {
		t.Errorf("got %v, want %v after one try", err, client.ErrOutcomeUnknown)
	}
	refusing := newProxy(t, s.urls[0], 1, answer(http.StatusServiceUnavailable, client.ErrUnavailable, ""))
	if _, err := s.administrator(t, refusing.url).PutSKU(t.Context(), newSKU(), lamp(5), client.IfAbsent()); err != nil {
		t.Errorf("not retried although nothing was applied: %v", err)
	}
}

func TestTokenErrorIsNotRetried(t *testing.T) {
	none := errors.New("no token")
	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:1"}, Token: func(context.Context) (string, error) { return "", none }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Place(t.Context(), client.Purchase{SKU: "lamp", Quantity: 1})
	if _, gaveUp := errors.AsType[*client.GaveUp](err); gaveUp || !errors.Is(err, none) {
		t.Errorf("got %v, want the token's error", err)
	}
}
