package order_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// guards are the strategies with all their fences that a withdrawal has to stop.
func guards() (all []options) {
	for _, s := range slices.DeleteFunc(strategy.All(), func(s strategy.Strategy) bool {
		return s.Server != strategy.InMySQL && s.Server != strategy.InEtcd || s.Try
	}) {
		for _, fence := range []strategy.Fence{strategy.FenceOff, strategy.FenceWrite, strategy.FenceClaim} {
			if s.Token || fence == strategy.FenceClaim {
				all = append(all, options{strategy: s.Name, fence: fence})
			}
		}
	}
	return all
}

// Buyers order at two replicas while the SKU is withdrawn at one of them, and read stock a
// moment before they write it. The orders in the database when Withdraw returns are all
// that there will be.
func TestNoOrderIsAcceptedAfterAWithdrawal(t *testing.T) {
	t.Parallel()
	for _, o := range guards() {
		t.Run(fmt.Sprint(o.strategy, "/", o.fence), func(t *testing.T) {
			t.Parallel()
			const buyers, before = 6, 1
			o.dsn, o.think = newDSN(t, stock.Stock{Units: 1 << 20}), 60*time.Millisecond
			replicas := []*order.Service{startReplica(t, o), startReplica(t, o)}
			if _, _, err := replicas[0].PutSKU(t.Context(), thing(stock.Stock{}), order.Precondition{}); err != nil { // creates the stock in etcd
				t.Fatal(err)
			}
			sold := make(chan order.Order, 1<<16)
			var running sync.WaitGroup
			for buyer := range buyers {
				running.Go(func() {
					for i := 0; ; i++ {
						placed, err := replicas[buyer%2].Place(t.Context(), buy(fmt.Sprint("buyer", buyer), fmt.Sprint(i), 1))
						switch {
						case errors.Is(err, stock.ErrUnknownSKU):
							return
						case err == nil:
							sold <- placed.Order
						case !errors.Is(err, order.ErrUnavailable) && !errors.Is(err, order.ErrBusy):
							t.Errorf("buyer %d: %v", buyer, err)
							return
						}
					}
				})
			}
			go func() { running.Wait(); close(sold) }() // buyers that fail must not leave the test waiting
			next := func() order.Order {
				placed, ok := <-sold
				if !ok {
					t.Fatal("the buyers ended before the withdrawal")
				}
				return placed
			}
			some := []order.Order{next(), next(), next()}
			for range before {
				next()
			}
			if err := replicas[1].Withdraw(t.Context(), testSKU, order.Precondition{}); err != nil {
				t.Fatal(err)
			}
			db := open(t, o.dsn)
			orders := func() (n int) {
				if err := db.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM orders").Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			accepted := orders()
			running.Wait() // every buyer was refused
			if now := orders(); now != accepted {
				t.Errorf("%d orders were accepted after the withdrawal", now-accepted)
			}
			theOrdersStay(t, replicas, some)
			if s, _ := strategy.Find(o.strategy); s.Expect(2) == strategy.Exact && s.Write != strategy.EtcdCompareAndSwap {
				audit(t, o.dsn)
			}
		})
	}
}

// theOrdersStay checks a withdrawn SKU, and three of its orders.
func theOrdersStay(t *testing.T, replicas []*order.Service, some []order.Order) {
	t.Helper()
	for i, at := range replicas {
		again, err := at.Place(t.Context(), buy(some[0].Customer, some[0].Key, 1))
		if err != nil || !again.Replayed || again.Order.ID != some[0].ID {
			t.Errorf("replica %d: the key of an order: got %+v, %v", i, again, err)
		}
		_, err = at.Place(t.Context(), buy("late", fmt.Sprint(i), 1))
		mustBe(t, "an order", err, stock.ErrUnknownSKU)
		mustBe(t, "withdraw again", at.Withdraw(t.Context(), testSKU, order.Precondition{Revision: new(uint64)}), nil)
		_, _, err = at.PutSKU(t.Context(), thing(stock.Stock{Units: 5}), order.Precondition{})
		mustBe(t, "change", err, order.ErrWithdrawn)
		_, err = at.Restock(t.Context(), order.RestockRequest{SKU: testSKU, Key: "r", Units: 5})
		mustBe(t, "restock", err, order.ErrWithdrawn)
	}
	found, err := replicas[0].Find(t.Context(), some[0].Customer, some[0].ID)
	if err != nil || found.Status != order.Reserved {
		t.Errorf("read an order: %+v, %v", found, err)
	}
	if paid, err := replicas[0].Pay(t.Context(), order.Payment{Customer: some[1].Customer, Order: some[1].ID, Reference: "pay-1"}); err != nil || paid.Status != order.Paid {
		t.Errorf("pay: %+v, %v", paid, err)
	}
	if cancelled, err := replicas[1].Cancel(t.Context(), some[2].Customer, some[2].ID); err != nil || cancelled.Status != order.Cancelled {
		t.Errorf("cancel: %+v, %v", cancelled, err)
	}
	_, err = replicas[0].Place(t.Context(), buy("late", "k", 1))
	mustBe(t, "an order for the unit that returned", err, stock.ErrUnknownSKU)
}

func TestWithdrawalPreconditions(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 5})
	at, db := startReplica(t, options{dsn: dsn, strategy: "conditional"}), open(t, dsn)
	mustBe(t, "an unknown SKU", at.Withdraw(t.Context(), "other", order.Precondition{}), stock.ErrUnknownSKU)
	seen, err := db.Get(t.Context(), testSKU)
	if err != nil {
		t.Fatal(err)
	}
	restock := order.RestockRequest{SKU: testSKU, Key: "r", Units: 3}
	first, err := at.Restock(t.Context(), restock)
	mustBe(t, "restock", err, nil)
	only := order.Precondition{Revision: &seen.Revision}
	mustBe(t, "after another's change", at.Withdraw(t.Context(), testSKU, only), order.ErrPrecondition)
	*only.Revision++
	var all sync.WaitGroup
	for range 4 { // copies of one request
		all.Go(func() { mustBe(t, "withdraw", at.Withdraw(t.Context(), testSKU, only), nil) })
	}
	all.Wait()
	again, err := at.Restock(t.Context(), restock)
	if err != nil || !again.Replayed || again.Restock.ID != first.Restock.ID {
		t.Errorf("a restock from before: got %+v, %v", again, err)
	}
	if balance := audit(t, dsn); balance.Units != 8 || balance.Available != 8 {
		t.Errorf("the audit counts %+v", balance)
	}
}

// Without etcd nothing is sold. An order for a secret SKU is answered like one for a name
// without a SKU, also after its restock. A replay is answered, too.
func TestSecretSKUIsUnknownWithoutEtcd(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"etcd", "etcd-textbook", "etcd-cas"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 5})
			placed, err := startReplica(t, options{dsn: dsn, strategy: "conditional"}).Place(t.Context(), buy("ann", "k", 1))
			if err != nil {
				t.Fatal(err)
			}
			s, err := strategy.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			cut, err := newReplica(options{dsn: dsn, strategy: name, fence: s.FenceFor(strategy.FenceClaim), etcd: []string{"127.0.0.1:1"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_ = cut.close(ctx) // it cannot release what is in etcd
			})
			execSQL(t, dsn, "UPDATE stock SET visible_from = NOW(6) + INTERVAL 1 HOUR, seq = seq + 1")
			// These two wait for etcd, the others must not.
			impatient := func() context.Context {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				t.Cleanup(cancel)
				return ctx
			}
			_, _ = cut.orders.Restock(impatient(), order.RestockRequest{SKU: testSKU, Key: "restock", Units: 1})
			_, err = cut.orders.Place(t.Context(), buy("ben", "k", 1))
			mustBe(t, "an order for a secret SKU", err, stock.ErrUnknownSKU)
			again, err := cut.orders.Place(t.Context(), buy("ann", "k", 1))
			if err != nil || !again.Replayed || again.Order.ID != placed.Order.ID {
				t.Errorf("a replay: got %+v, %v; want %s", again, err, placed.Order.ID)
			}
			execSQL(t, dsn, "UPDATE stock SET visible_from = NOW(6), seq = seq + 1")
			_, err = cut.orders.Place(impatient(), buy("ben", "k", 1))
			mustBe(t, "an order after the announcement", err, order.ErrUnavailable)
		})
	}
}

func TestAnnouncementUsesTheDatabasesClock(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		now := time.Now().Add(clockOff).Truncate(time.Second)
		before, after := now.Add(-time.Hour), now.Add(time.Hour)
		dsn := newDSN(t, stock.Stock{Units: 5, VisibleFrom: &after})
		ahead := startReplica(t, options{dsn: clocked(t, dsn, "ahead"), strategy: name})
		_, err := ahead.Place(t.Context(), buy("ann", "k", 1))
		mustBe(t, "before the announcement", err, stock.ErrUnknownSKU)
		change(t, ahead, stock.Stock{VisibleFrom: &before})
		_, err = ahead.Place(t.Context(), buy("ann", "k", 1))
		mustBe(t, "after it", err, nil)
	})
}

func TestAnnouncementNeedsNoChange(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		dsn := newDSN(t, stock.Stock{Units: 5})
		at := startReplica(t, options{dsn: dsn, strategy: name})
		now, err := open(t, dsn).Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		soon := now.Add(time.Second)
		change(t, at, stock.Stock{VisibleFrom: &soon})
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			placed, err := at.Place(t.Context(), buy("ann", "k", 1))
			if err == nil {
				if placed.Order.CreatedAt.Before(soon) {
					t.Errorf("an order was made at %s, before the announcement at %s", placed.Order.CreatedAt, soon)
				}
				return
			}
			mustBe(t, "before the announcement", err, stock.ErrUnknownSKU)
			if time.Since(began) > testPatience {
				t.Fatal("the SKU was never announced")
			}
		}
	})
}
