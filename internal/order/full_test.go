package order_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// A desk that waits for its lock queues as many orders as Queue allows. It refuses the
// next one at once and keeps nothing of it.
func TestFullDeskIsBusyAtOnce(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	locker, metrics := &stuckLocker{Locker: processlock.New(), free: make(chan struct{})}, order.NewMetrics(nil)
	service := order.New(order.Config{DB: open(t, dsn), Strategy: mustFind(t, "etcd"), Fence: strategy.FenceOff, Locker: locker,
		PaymentWindow: time.Minute, RequestTimeout: time.Minute, Desk: order.DeskConfig{Queue: 1}, Metrics: metrics, Logger: slog.New(slog.DiscardHandler)})
	var waiting errgroup.Group
	place := func(customer string) {
		waiting.Go(func() error {
			_, err := service.Place(t.Context(), buy(customer, "k", 1))
			return err
		})
	}
	place("in the queue")
	sandboxtest.Eventually(t, "a request for the lock", func() bool { return locker.asking.Load() == 1 })

	// An order that waited would get another error, after a minute.
	for i := range 3 {
		if _, err := service.Place(t.Context(), buy(fmt.Sprint("customer-", i), "k", 1)); !errors.Is(err, order.ErrBusy) {
			t.Fatalf("got %v, want %v", err, order.ErrBusy)
		}
	}
	if full, waiting := value(metrics.Full), value(metrics.Waiting); full != 3 || waiting != 1 {
		t.Errorf("counted %v refusals and %v waiting orders, want 3 and 1", full, waiting)
	}
	close(locker.free)
	if err := waiting.Wait(); err != nil {
		t.Error(err)
	}
	if n := value(metrics.Waiting); n != 0 {
		t.Errorf("%v orders are still counted as waiting", n)
	}
	if _, err := service.Place(t.Context(), buy("customer-0", "k", 1)); err != nil {
		t.Errorf("after a place was free again: %v", err)
	}
	if err := service.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := audit(t, dsn).Reserved; got != 2 {
		t.Errorf("%d units reserved, want 2", got)
	}
}
