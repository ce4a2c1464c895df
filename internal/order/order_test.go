package order_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// The classic example: 4 units are left. At the same time one customer buys 3 units and
// another 2, at different replicas. One of them must be refused.
func TestThreeAndTwoOfFour(t *testing.T) {
	t.Parallel()
	for _, s := range strategiesHere() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 4})
			// Either makes the existing race happen every time.
			o := options{dsn: dsn, strategy: s.Name}
			if s.Expect(2) == strategy.Oversold {
				o.at = afterBothRead()
			} else { // one cannot read before the other has written
				o.think = 200 * time.Millisecond
			}
			services := []*order.Service{startReplica(t, o), startReplica(t, o)}
			var errs [2]error
			var group sync.WaitGroup
			for i, n := range []int32{3, 2} {
				group.Go(func() {
					_, errs[i] = services[i].Place(t.Context(), buy(fmt.Sprint("customer", i), "k", n))
				})
			}
			group.Wait()
			answer := func(err error) string {
				if err != nil {
					return err.Error()
				}
				return "sold"
			}
			t.Logf("%-13s  3 units: %s; 2 units: %s", s.Name, answer(errs[0]), answer(errs[1]))
			if s.Expect(2) == strategy.Oversold {
				if errs[0] != nil || errs[1] != nil {
					t.Fatalf("without protection both should succeed: got %v and %v", errs[0], errs[1])
				}
				report, err := stock.Audit(t.Context(), open(t, dsn))
				if err != nil {
					t.Fatal(err)
				}
				if got := report.SKUs[0].Oversold; report.OK || got != 1 {
					t.Errorf("the audit found %d units oversold, want 1", got)
				}
				return
			}
			if errors.Is(errs[0], order.ErrInsufficient) == errors.Is(errs[1], order.ErrInsufficient) || errs[0] != nil && errs[1] != nil {
				t.Fatalf("one of the two should be refused: got %v and %v", errs[0], errs[1])
			}
			audit(t, dsn)
		})
	}
}

// afterBothRead holds an order that has read the stock until another has read it, too.
func afterBothRead() func(order.Step) {
	both := make(chan struct{})
	var read atomic.Int32
	return func(step order.Step) {
		if step != order.BeforeWrite {
			return
		}
		if read.Add(1) == 2 {
			close(both)
		}
		select {
		case <-both:
		case <-time.After(testTimeout / 2): // the other has failed, and its error is reported
		}
	}
}

// strategiesHere are the strategies whose servers these tests have, except two with
// their own tests: one that does not wait for its lock, and one with its stock in etcd.
func strategiesHere() []strategy.Strategy {
	return slices.DeleteFunc(strategy.All(), func(s strategy.Strategy) bool {
		return s.Server != strategy.InMySQL && s.Server != strategy.InEtcd || s.Try || s.Write == strategy.EtcdCompareAndSwap
	})
}

// forGuarded runs f under every strategy that does not oversell: all of them handle keys,
// limits and windows alike.
func forGuarded(t *testing.T, f func(t *testing.T, name string)) {
	t.Parallel()
	for _, s := range strategiesHere() {
		if s.Expect(2) == strategy.Exact {
			t.Run(s.Name, func(t *testing.T) {
				t.Parallel()
				f(t, s.Name)
			})
		}
	}
}

func TestOneKeyIsOneOrder(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		dsn := newDSN(t, stock.Stock{Units: 100})
		services := []*order.Service{startReplica(t, options{dsn: dsn, strategy: name}), startReplica(t, options{dsn: dsn, strategy: name})}
		var mu sync.Mutex
		ids := map[order.ID]int{}
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				placed, err := services[i%2].Place(t.Context(), buy("ann", "k", 2))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if !placed.Replayed {
					ids[placed.Order.ID]++
				} else {
					ids[placed.Order.ID] += 0
				}
			})
		}
		group.Wait()
		for id, made := range ids {
			if len(ids) != 1 || made != 1 {
				t.Errorf("order %v was made %d times, among %d orders; want one order, made once", id, made, len(ids))
			}
		}
		if _, err := services[0].Place(t.Context(), buy("ann", "k", 1)); !errors.Is(err, order.ErrKeyReused) {
			t.Errorf("the key with another quantity: got %v, want %v", err, order.ErrKeyReused)
		}
		if placed, err := services[1].Place(t.Context(), buy("ben", "k", 2)); err != nil || placed.Replayed {
			t.Errorf("the key of another customer: got %+v, %v; want an order of its own", placed, err)
		}
		if got := audit(t, dsn).Reserved; got != 4 {
			t.Errorf("%d units reserved, want 4", got)
		}
	})
}

// A buyer whose answer was lost gets their order, although nothing is left.
func TestReplayComesBeforeEveryRefusal(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		one := int32(1)
		dsn := newDSN(t, stock.Stock{Units: 1, PerCustomerLimit: &one})
		first := startReplica(t, options{dsn: dsn, strategy: name})
		second := startReplica(t, options{dsn: dsn, strategy: name})
		placed, err := first.Place(t.Context(), buy("ann", "k", 1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Place(t.Context(), buy("ben", "k", 1)); !errors.Is(err, order.ErrSoldOut) {
			t.Fatalf("got %v, want %v", err, order.ErrSoldOut)
		}
		for _, s := range []*order.Service{first, second} {
			again, err := s.Place(t.Context(), buy("ann", "k", 1))
			if err != nil || !again.Replayed || again.Order.ID != placed.Order.ID {
				t.Errorf("replay: got %+v, %v; want the first order", again, err)
			}
		}
		over := time.Now().Add(-time.Hour)
		change(t, first, stock.Stock{PerCustomerLimit: &one, SaleEndsAt: &over})
		again, err := second.Place(t.Context(), buy("ann", "k", 1))
		if err != nil || !again.Replayed {
			t.Errorf("replay after the sale: got %+v, %v; want the first order", again, err)
		}
		audit(t, dsn)
	})
}

// An administrator has changed the price at another replica.
func TestOrderAtAnOldPriceIsRefused(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		dsn := newDSN(t, stock.Stock{Units: 10})
		first := startReplica(t, options{dsn: dsn, strategy: name})
		second := startReplica(t, options{dsn: dsn, strategy: name})
		shown := thing(stock.Stock{})
		at := func(key string, cents *int64, currency string) order.Request {
			r := buy("ann", key, 1)
			r.PriceCents, r.Currency = cents, currency
			return r
		}
		same := at("k", &shown.PriceCents, shown.Currency)
		placed, err := first.Place(t.Context(), same)
		if err != nil {
			t.Fatal(err)
		}
		for what, r := range map[string]order.Request{
			"no price": at("k", nil, ""), "another": at("k", new(shown.PriceCents+1), shown.Currency),
			"no currency": at("k", &shown.PriceCents, ""), "no cents": at("k", nil, shown.Currency),
		} {
			_, err := second.Place(t.Context(), r)
			mustBe(t, "the key with "+what, err, order.ErrKeyReused)
		}
		_, err = second.Place(t.Context(), at("k2", &shown.PriceCents, "USD"))
		mustBe(t, "another currency", err, order.ErrPriceChanged)
		if errors.Is(err, order.ErrUnavailable) {
			t.Errorf("the refusal is temporary, want a final one: %v", err)
		}

		changed := shown
		changed.PriceCents++
		if _, _, err := second.PutSKU(t.Context(), changed, order.Precondition{}); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*order.Service{first, second} {
			_, err := s.Place(t.Context(), at("k2", &shown.PriceCents, ""))
			mustBe(t, "the old price", err, order.ErrPriceChanged)
			again, err := s.Place(t.Context(), same)
			if err != nil || !again.Replayed || again.Order.ID != placed.Order.ID {
				t.Errorf("replay: got %+v, %v; want the first order", again, err)
			}
		}
		now, err := first.Place(t.Context(), at("k2", &changed.PriceCents, changed.Currency))
		if err != nil || now.Order.PriceCents != changed.PriceCents {
			t.Errorf("the new price: got %+v, %v", now, err)
		}
		if got := audit(t, dsn); got.Reserved != 2 {
			t.Errorf("%+v; want 2 reserved", got)
		}
	})
}

func TestLimitHoldsForOneCustomerOnManyReplicas(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		three := int32(3)
		dsn := newDSN(t, stock.Stock{Units: 100, PerCustomerLimit: &three})
		const orders = 32
		var placed atomic.Int32
		var first sync.Once
		o := options{dsn: dsn, strategy: name, at: func(s order.Step) {
			if s != order.BeforeClaim {
				return
			}
			first.Do(func() { // the others queue meanwhile, and share a batch
				for end := time.Now().Add(testTimeout / 2); placed.Load() < orders && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(100 * time.Millisecond)
			})
		}}
		services := []*order.Service{startReplica(t, o), startReplica(t, o)}
		var group sync.WaitGroup
		for i := range orders {
			group.Go(func() {
				placed.Add(1)
				_, err := services[i%2].Place(t.Context(), buy("ann", fmt.Sprint("k", i), 1))
				if err != nil && !errors.Is(err, order.ErrCustomerLimit) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := audit(t, dsn).Reserved; got != 3 {
			t.Errorf("one customer got %d units, the limit is 3", got)
		}
	})
}

func TestSaleWindow(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		dsn := newDSN(t, stock.Stock{Units: 5, SaleStartsAt: &future})
		service := startReplica(t, options{dsn: dsn, strategy: name})
		if _, err := service.Place(t.Context(), buy("ann", "k", 1)); !errors.Is(err, order.ErrNotOpen) {
			t.Errorf("before the sale: got %v, want %v", err, order.ErrNotOpen)
		}
		other := startReplica(t, options{dsn: dsn, strategy: name})
		change(t, other, stock.Stock{SaleEndsAt: &past})
		if _, err := service.Place(t.Context(), buy("ann", "k", 1)); !errors.Is(err, order.ErrOver) {
			t.Errorf("after the sale: got %v, want %v", err, order.ErrOver)
		}
		change(t, other, stock.Stock{SaleStartsAt: &past, SaleEndsAt: &future})
		placed, err := service.Place(t.Context(), buy("ann", "k", 1))
		if err != nil {
			t.Fatal(err)
		}
		if got := placed.Order.ExpiresAt.Sub(placed.Order.CreatedAt); got != time.Minute {
			t.Errorf("the payment window is %s, want 1m", got)
		}
		stored, err := service.Find(t.Context(), "ann", placed.Order.ID)
		if err != nil {
			t.Fatal(err)
		}
		if stored != placed.Order {
			t.Errorf("answered %+v, stored %+v", placed.Order, stored)
		}
		if _, err := service.Find(t.Context(), "ben", placed.Order.ID); !errors.Is(err, order.ErrNotFound) {
			t.Errorf("another customer's order: got %v, want %v", err, order.ErrNotFound)
		}
	})
}

// Without a fence no token is recorded with a write, and the audit allows for that.
func TestAuditOfASaleUnderEachFence(t *testing.T) {
	t.Parallel()
	for _, fence := range []strategy.Fence{strategy.FenceOff, strategy.FenceWrite, strategy.FenceClaim} {
		t.Run(string(fence), func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 3})
			o := options{dsn: dsn, strategy: "etcd", fence: fence}
			services := []*order.Service{startReplica(t, o), startReplica(t, o)}
			for i := range 4 {
				_, err := services[i%2].Place(t.Context(), buy("ann", fmt.Sprint("k", i), 1))
				if want := i == 3; errors.Is(err, order.ErrSoldOut) != want || err != nil != want {
					t.Errorf("order %d: got %v", i, err)
				}
			}
			if got := audit(t, dsn).Reserved; got != 3 {
				t.Errorf("%d units reserved, want 3", got)
			}
		})
	}
}

// A change must not overwrite another administrator's change. Orders since then do not
// matter.
func TestPreconditionsOfAChange(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		dsn := newDSN(t, stock.Stock{Units: 5})
		service := startReplica(t, options{dsn: dsn, strategy: name})
		put := func(sku string, only order.Precondition) (stock.Stock, bool, error) {
			want := thing(stock.Stock{Units: 5})
			want.SKU = sku
			return service.PutSKU(t.Context(), want, only)
		}
		seen, _, err := put(testSKU, order.Precondition{Exists: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := service.Place(t.Context(), buy("ann", "k", 1)); err != nil {
			t.Fatal(err)
		}
		changed, _, err := put(testSKU, order.Precondition{Revision: &seen.Revision})
		if err != nil || changed.Revision != seen.Revision+1 || changed.Seq <= seen.Seq {
			t.Errorf("after a sale: got %+v, %v; want revision %d and a later seq", changed, err, seen.Revision+1)
		}
		for what, only := range map[string]order.Precondition{"another's change": {Revision: &seen.Revision}, "it is there": {Absent: true}} {
			if _, _, err := put(testSKU, only); !errors.Is(err, order.ErrPrecondition) {
				t.Errorf("%s: got %v, want %v", what, err, order.ErrPrecondition)
			}
		}
		for what, only := range map[string]order.Precondition{"no such revision": {Revision: &seen.Revision}, "it is not there": {Exists: true}} {
			if _, _, err := put("other", only); !errors.Is(err, order.ErrPrecondition) {
				t.Errorf("%s: got %v, want %v", what, err, order.ErrPrecondition)
			}
		}
		if _, created, err := put("other", order.Precondition{Absent: true}); err != nil || !created {
			t.Errorf("a new one: created %v, error %v", created, err)
		}
	})
}

func TestUnknownSKU(t *testing.T) {
	forGuarded(t, func(t *testing.T, name string) {
		service := startReplica(t, options{dsn: newDSN(t, stock.Stock{Units: 5}), strategy: name})
		request := buy("ann", "k", 1)
		request.SKU = "other"
		for range 2 { // a refusal is not remembered
			if _, err := service.Place(t.Context(), request); !errors.Is(err, stock.ErrUnknownSKU) {
				t.Errorf("got %v, want %v", err, stock.ErrUnknownSKU)
			}
		}
		// The key of an order cannot be used by another request.
		if _, err := service.Place(t.Context(), buy("ann", "k", 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := service.Place(t.Context(), request); !errors.Is(err, order.ErrKeyReused) {
			t.Errorf("the key of an order: got %v, want %v", err, order.ErrKeyReused)
		}
		request.Customer = "ben"
		if _, err := service.Place(t.Context(), request); !errors.Is(err, stock.ErrUnknownSKU) {
			t.Errorf("another customer's key: got %v, want %v", err, stock.ErrUnknownSKU)
		}
	})
}
