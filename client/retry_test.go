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

func TestLostAnswersMakeOneOrder(t *testing.T) {
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

func TestReplicaThatIsKilledLosesNoOrder(t *testing.T) {
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
		<-half
	}
	s.replicas[0].Kill()
	all.Wait()
	s.urls = s.urls[1:]
	if got := s.reserved(t, sku); got != buyers*each {
		t.Errorf("%d units are reserved, want %d", got, buyers*each)
	}
}

func TestWhatMayBeTriedAgainIs(t *testing.T) {
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
		{http.StatusBadGateway, "", 2}, // a proxy's own
		{http.StatusServiceUnavailable, "", 2},
		{http.StatusConflict, client.ErrSoldOut, 1},
		{http.StatusInternalServerError, client.ErrInternal, 1},
		{http.StatusForbidden, "", 1},
	} {
		between := newProxy(t, s.urls[0], 1, say(tt.status, tt.kind, ""))
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

func TestTheNextReplicaIsAskedAtOnceAndKept(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	full := newProxy(t, s.urls[0], 1000, say(http.StatusServiceUnavailable, client.ErrBusy, "30"))
	good := newProxy(t, s.urls[0], 0, nil)
	ann := s.as(t, "ann", full.url, good.url)
	began := time.Now()
	for range 5 {
		if _, err := ann.Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took >= 30*time.Second {
		t.Errorf("it took %s: another replica's Retry-After was waited for", took)
	}
	if n, m := len(full.keys()), len(good.keys()); n != 1 || m != 5 {
		t.Errorf("%d requests to the full replica and %d to the other, want 1 and 5", n, m)
	}
}

func TestRetryAfterIsWaitedFor(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	between := newProxy(t, s.urls[0], 1, say(http.StatusTooManyRequests, client.ErrTooManyRequests, "2"))
	began := time.Now()
	if _, err := s.as(t, "ann", between.url, s.urls[0]).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("tried again after %s", took)
	}
	if n := len(between.keys()); n != 2 {
		t.Errorf("%d tries at the replica, want 2: a limit is no reason to turn to another", n)
	}
}

func TestAWaitBeyondTheDeadlineIsNotBegun(t *testing.T) {
	far := newProxy(t, "http://127.0.0.1:1", 1000, say(http.StatusTooManyRequests, client.ErrTooManyRequests, "3600"))
	c, err := client.New(client.Config{URLs: []string{far.url}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = c.Place(ctx, client.Purchase{SKU: "lamp", Quantity: 1})
	problem, ok := errors.AsType[*client.Problem](err)
	if !ok || problem.RetryAfter != time.Hour || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("%v", err)
	}
	if ctx.Err() != nil || len(far.keys()) != 1 {
		t.Error("it waited")
	}
}

func TestGivingUpNamesTheKeyAndWhatIsKnown(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	lossy := newProxy(t, s.urls[0], 1000, dropAnswer)
	impatient := s.as(t, "ann", lossy.url)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the first try has to get through
	defer cancel()
	_, err := impatient.Place(ctx, client.Purchase{SKU: sku, Quantity: 1})
	gaveUp, ok := errors.AsType[*client.GaveUp](err)
	if !ok || !errors.Is(err, client.ErrOutcomeUnknown) || !errors.Is(err, context.DeadlineExceeded) || gaveUp.Key == "" {
		t.Fatalf("%v", err)
	}
	placed, err := s.as(t, "ann").Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1, Key: gaveUp.Key})
	if err != nil || !placed.Replayed {
		t.Errorf("the same key later: %+v, %v", placed, err)
	}

	// The token ends between the tries: who is not let in is not told what became
	// of the first.
	var tries atomic.Int32
	expiring := newProxy(t, s.urls[0], 1000, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if tries.Add(1) == 1 {
			dropAnswer(w, r, pass)
		}
		say(http.StatusUnauthorized, client.ErrUnauthorized, "")(w, r, pass)
	})
	_, err = s.as(t, "ann", expiring.url).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
	if gaveUp, ok = errors.AsType[*client.GaveUp](err); !ok || !gaveUp.Unknown || gaveUp.Key == "" || !errors.Is(err, client.ErrUnauthorized) {
		t.Errorf("not let in after a try without an answer: %v", err)
	}
	// A fault may have come after the commit.
	faulty := newProxy(t, s.urls[0], 1, say(http.StatusInternalServerError, client.ErrInternal, ""))
	_, err = s.as(t, "ann", faulty.url).Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
	if !errors.Is(err, client.ErrInternal) || !errors.Is(err, client.ErrOutcomeUnknown) || len(faulty.keys()) != 1 {
		t.Errorf("a fault: %v", err)
	}

	nobody := s.with(t, client.Config{URLs: []string{"http://127.0.0.1:1"}, MaxTries: 3})
	_, err = nobody.Place(t.Context(), client.Purchase{SKU: sku, Quantity: 1})
	if gaveUp, ok = errors.AsType[*client.GaveUp](err); !ok || gaveUp.Tries != 3 || gaveUp.Unknown || errors.Is(err, client.ErrOutcomeUnknown) {
		t.Errorf("nobody was reached: %v", err)
	}
}

func TestReplicaThatNeverAnswersIsGivenUp(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	hung := newProxy(t, s.urls[0], 1000, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() })
	c := s.with(t, client.Config{URLs: []string{hung.url, s.urls[0]}, TryTimeout: time.Second})
	if _, _, err := c.SKU(t.Context(), sku); err != nil {
		t.Error(err)
	}
}

func TestAChangeUnderAPreconditionIsNotRepeatedBlindly(t *testing.T) {
	s := theShop(t)
	between := newProxy(t, s.urls[0], 1, dropAnswer)
	_, err := s.administrator(t, between.url).PutSKU(t.Context(), newSKU(), lamp(5), client.IfAbsent())
	if !errors.Is(err, client.ErrOutcomeUnknown) || len(between.keys()) != 1 {
		t.Errorf("%v", err)
	}
	refusing := newProxy(t, s.urls[0], 1, say(http.StatusServiceUnavailable, client.ErrUnavailable, ""))
	if _, err := s.administrator(t, refusing.url).PutSKU(t.Context(), newSKU(), lamp(5), client.IfAbsent()); err != nil {
		t.Errorf("nothing had been applied: %v", err)
	}
}

func TestATokenThatCannotBeHadIsTheCallersError(t *testing.T) {
	none := errors.New("no token today")
	c, err := client.New(client.Config{URLs: []string{"http://127.0.0.1:1"}, Token: func(context.Context) (string, error) { return "", none }})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Place(t.Context(), client.Purchase{SKU: "lamp", Quantity: 1})
	if _, gaveUp := errors.AsType[*client.GaveUp](err); gaveUp || !errors.Is(err, none) {
		t.Errorf("%v", err)
	}
}
