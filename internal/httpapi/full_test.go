package httpapi_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/httpapi"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// A desk with one place, whose lock another holds: whoever finds it full need not
// wait to be told so.
func TestOrderForAFullDeskIsAskedToComeAgain(t *testing.T) {
	t.Parallel()
	batched, err := strategy.Find("etcd")
	if err != nil {
		t.Fatal(err)
	}
	locker, metrics := processlock.New(), order.NewMetrics(nil)
	var orders *order.Service
	s := newServerWith(t, func(c *httpapi.Config) {
		orders = order.New(order.Config{DB: c.Catalog.(*stock.DB), Strategy: batched, Fence: strategy.FenceOff, Locker: locker, PaymentWindow: time.Minute,
			RequestTimeout: time.Minute, Desk: order.DeskConfig{Queue: 1}, Metrics: metrics, Logger: slog.New(slog.DiscardHandler)})
		c.Orders = orders
	})
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	held, err := locker.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	var waiting errgroup.Group
	place := func(i int) {
		waiting.Go(func() error {
			_, err := orders.Place(t.Context(), order.Request{SKU: "lamp", Customer: fmt.Sprint("customer-", i), Key: "k", Quantity: 1})
			return err
		})
	}
	place(1)
	select {
	case <-held.Wanted(): // it was taken out of the queue
	case <-time.After(time.Minute):
		t.Fatal("the desk never asked for its lock")
	}
	place(2)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		var m dto.Metric
		if err := metrics.Waiting.Write(&m); err != nil || time.Now().After(deadline) {
			t.Fatalf("%v orders wait, want 2: %v", m.GetGauge().GetValue(), err)
		}
		if m.GetGauge().GetValue() == 2 {
			break
		}
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
