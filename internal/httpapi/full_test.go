package httpapi_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/httpapi"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/strategy"
)

// The desk's queue has one place, and another holder has the lock: a second order is
// refused at once.
func TestOrderForAFullDeskIsBusy(t *testing.T) {
	t.Parallel()
	batched, err := strategy.Find("etcd")
	if err != nil {
		t.Fatal(err)
	}
	locker := processlock.New()
	var orders *order.Service
	s := newServerWith(t, func(c *httpapi.Config) {
		orders = order.New(order.Config{DB: c.Stock, Strategy: batched, Fence: strategy.FenceOff, Locker: locker, PaymentWindow: time.Minute,
			RequestTimeout: time.Minute, Desk: order.DeskConfig{Queue: 1}, Logger: slog.New(slog.DiscardHandler)})
		c.Orders = orders
	})
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	held, err := locker.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	var waiting errgroup.Group
	waiting.Go(func() error {
		_, err := orders.Place(t.Context(), order.Request{SKU: "lamp", Customer: "ben", Key: "k", Quantity: 1})
		return err
	})
	select {
	case <-held.Contended(): // the desk waits for the lock
	case <-time.After(time.Minute):
		t.Fatal("timed out: the desk does not wait for the lock")
	}
	full := s.order(customer(t, "ann"), "k", `{"sku":"lamp","quantity":1}`)
	full.check(t, http.StatusServiceUnavailable, "busy", "")
	if got := full.Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q, want 1", got)
	}
	if err := held.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := waiting.Wait(); err != nil {
		t.Error(err)
	}
	s.order(customer(t, "ann"), "k", `{"sku":"lamp","quantity":1}`).check(t, http.StatusCreated, "", "")
	if err := orders.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
