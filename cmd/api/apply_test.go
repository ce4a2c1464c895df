package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/limit"
	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/settings"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// crowded is a lock for which others always wait. It counts the grants.
type crowded struct {
	lock.Locker
	grants atomic.Int32
}

func (c *crowded) Lock(ctx context.Context, name string) (lock.Held, error) {
	held, err := c.Locker.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	c.grants.Add(1)
	return contendedHeld{held}, nil
}

type contendedHeld struct{ lock.Held }

func (contendedHeld) Contended() <-chan struct{} {
	contended := make(chan struct{})
	close(contended)
	return contended
}

// briefly is a quantum that is shorter than any batch of the tests.
const briefly = time.Millisecond

// The settings take effect. (A log line only shows that they were read.)
func TestSettingsTakeEffect(t *testing.T) {
	t.Parallel()
	db := openDB(t, newDSN(t))
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Create(t.Context(), stock.Stock{SKU: "lamp", Name: "n", Currency: "EUR", Units: 4}); err != nil {
		t.Fatal(err)
	}
	for quantum, oneTenure := range map[time.Duration]bool{time.Hour: true, briefly: false} {
		locker, metrics := &crowded{Locker: processlock.New()}, order.NewMetrics(nil)
		r := &replica{level: new(slog.LevelVar), limits: new(limit.Limits), orders: newCrowdedOrders(t, db, locker, metrics)}
		want := settings.Values{
			Quantum: quantum, LogLevel: slog.LevelWarn,
			ByCustomer: limit.Limit{Requests: 2, Window: time.Second}, ByAddress: limit.Limit{Requests: 3, Window: time.Second},
		}
		r.apply(want)
		if got := r.level.Level(); got != want.LogLevel {
			t.Errorf("the level is %s, want %s", got, want.LogLevel)
		}
		for kind, limit := range map[limit.Kind]limit.Limit{limit.ByCustomer: want.ByCustomer, limit.ByAddress: want.ByAddress} {
			if got := r.limits.Get(kind); got != limit {
				t.Errorf("the limit by %s is %s, want %s", kind, got, limit)
			}
		}
		sellTwice(t, r.orders, locker.Locker, metrics, quantum.String())
		if got := locker.grants.Load(); (got == 1) != oneTenure {
			t.Errorf("under a quantum of %s two batches were sold in %d tenures", quantum, got)
		}
		if err := r.orders.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// newCrowdedOrders sells one order at a time under a lock that others want. Its initial
// quantum is long.
func newCrowdedOrders(t *testing.T, db *stock.DB, locker lock.Locker, metrics *order.Metrics) *order.Service {
	t.Helper()
	batched, err := strategy.Find(strategy.Default)
	if err != nil {
		t.Fatal(err)
	}
	return order.New(order.Config{
		DB: db, Strategy: batched, Fence: strategy.FenceOff, Locker: locker, PaymentWindow: time.Minute, RequestTimeout: time.Minute,
		Desk: order.DeskConfig{MaxBatch: 1, Quantum: time.Minute}, Metrics: metrics, Logger: slog.New(slog.DiscardHandler),
		At: func(s order.Step) {
			if s == order.BeforeCommit {
				time.Sleep(2 * briefly)
			}
		},
	})
}

// sellTwice places two orders of a customer, which both wait before one is sold.
func sellTwice(t *testing.T, orders *order.Service, locker lock.Locker, metrics *order.Metrics, customer string) {
	t.Helper()
	first, err := locker.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for i := range 2 {
		group.Go(func() error {
			_, err := orders.Place(t.Context(), order.Request{SKU: "lamp", Customer: customer, Key: fmt.Sprint(i), Quantity: 1})
			return err
		})
	}
	for deadline := time.Now().Add(30 * time.Second); testutil.ToFloat64(metrics.Waiting) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the two orders did not wait at the same time")
		}
	}
	if err := first.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}
