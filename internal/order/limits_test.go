package order_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Ten accounts cancel and order again, so that their units never go to anybody else. Under
// the lenient policy honest customers get none; under the strict one they get all.
func TestCancellingAndOrderingAgainHoldsNoUnitsUnderStrict(t *testing.T) {
	const accounts, limit = 10, 2
	for policy, want := range map[stock.HoldPolicy]int{stock.Lenient: 0, stock.Strict: accounts} {
		t.Run(string(policy), func(t *testing.T) {
			forShops(t, stock.Stock{Units: accounts * limit, PerCustomerLimit: new(int32(limit)), HoldPolicy: policy}, time.Minute, func(t *testing.T, s *shop) {
				var held [accounts]order.Order
				for i := range held {
					held[i] = s.mustBuy(t, i, fmt.Sprint("bot", i), "k", limit)
				}
				honest := 0
				for i, o := range held {
					if _, err := s.at(i).Cancel(t.Context(), o.Customer, o.ID); err != nil {
						t.Fatal(err)
					}
					_, err := s.at(i+1).Place(t.Context(), buy(o.Customer, "again", limit))
					if policy == stock.Lenient {
						mustBe(t, "order again", err, nil)
					} else if still, ok := errors.AsType[*order.StillHeldError](err); !errors.Is(err, order.ErrCustomerLimit) || !ok || !still.Until.Equal(o.ExpiresAt) {
						t.Errorf("order again: got %v, want %v until %s", err, order.ErrCustomerLimit, o.ExpiresAt)
					}
					_, err = s.at(i).Place(t.Context(), buy(fmt.Sprint("honest", i), "k", limit))
					if err == nil {
						honest++
					} else {
						mustBe(t, "an honest order", err, order.ErrSoldOut)
					}
				}
				if honest != want {
					t.Errorf("%d honest customers got units, want %d", honest, want)
				}
				s.audit(t)
			})
		})
	}
}

// The time at which cancelled units stop counting is named only if the order is within the
// limit then: the customer may hold too many units that stay.
func TestCountsUntilIsWhenTheOrderFits(t *testing.T) {
	forShops(t, stock.Stock{Units: 50, PerCustomerLimit: new(int32(4)), HoldPolicy: stock.Strict}, time.Minute, func(t *testing.T, s *shop) {
		var cancelled []order.Order
		for i, n := range []int32{1, 2} {
			o := s.mustBuy(t, i, "ann", fmt.Sprint("k", i), n)
			if _, err := s.at(i).Cancel(t.Context(), "ann", o.ID); err != nil {
				t.Fatal(err)
			}
			cancelled = append(cancelled, o)
		}
		paid := s.mustBuy(t, 0, "ann", "paid", 1)
		if _, err := s.at(1).Pay(t.Context(), order.Payment{Customer: "ann", Order: paid.ID}); err != nil {
			t.Fatal(err)
		}
		for n, want := range map[int32]time.Time{1: cancelled[0].ExpiresAt, 2: cancelled[1].ExpiresAt, 3: cancelled[1].ExpiresAt, 4: {}, 5: {}} {
			_, err := s.at(int(n)).Place(t.Context(), buy("ann", fmt.Sprint("more", n), n))
			var until time.Time
			if still, ok := errors.AsType[*order.StillHeldError](err); ok {
				until = still.Until
			}
			if !errors.Is(err, order.ErrCustomerLimit) || !until.Equal(want) {
				t.Errorf("%d more: got %v, want %v until %s", n, err, order.ErrCustomerLimit, want)
			}
		}
		s.audit(t)
	})
}

// The seller remembers what customers hold, and is not told when a payment window ends.
func TestCancelledUnitsCountUntilTheWindowEnds(t *testing.T) {
	forShops(t, stock.Stock{Units: 9, PerCustomerLimit: new(int32(3)), HoldPolicy: stock.Strict}, time.Minute, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		if _, err := s.at(1).Cancel(t.Context(), "ann", o.ID); err != nil {
			t.Fatal(err)
		}
		s.mustBuy(t, 0, "ann", "k2", 1)
		_, err := s.at(1).Place(t.Context(), buy("ann", "k3", 1))
		mustBe(t, "a fourth unit in the window", err, order.ErrCustomerLimit)
		if n, err := order.Purge(t.Context(), s.replicas[0].db, s.databaseNow(t), 9); err != nil || n != 0 {
			t.Errorf("purged %d, %v; want none in the window", n, err)
		}
		execSQL(t, s.dsn, "UPDATE orders SET expires_at = NOW(6) WHERE status = 'cancelled'")
		s.mustBuy(t, 0, "ann", "k4", 1)
		s.mustBuy(t, 1, "ann", "k5", 1)
		_, err = s.at(1).Place(t.Context(), buy("ann", "k6", 1))
		if still, ok := errors.AsType[*order.StillHeldError](err); ok || !errors.Is(err, order.ErrCustomerLimit) {
			t.Errorf("a fourth unit after the window: got %v, %v; want %v for units that are held", err, still, order.ErrCustomerLimit)
		}
		if n, err := order.Purge(t.Context(), s.replicas[0].db, s.databaseNow(t), 9); err != nil || n != 1 {
			t.Errorf("purged %d, %v; want one after the window", n, err)
		}
		s.audit(t)
	})
}

// Customers order many SKUs at once at several replicas. Each order alone is within the
// bound on unpaid orders.
func TestUnpaidOrdersAreBoundedOverAllSKUs(t *testing.T) {
	t.Parallel()
	const skus, replicas, most, customers = 20, 3, 2, 3
	for _, name := range ofEachKind {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 100})
			var at [replicas]*replica
			for i := range at {
				at[i] = start(t, options{dsn: dsn, strategy: name, maxUnpaid: most})
			}
			nameOf := func(i int) string { return fmt.Sprint("sku", i) }
			for i := range skus {
				sku := thing(stock.Stock{Units: 100})
				sku.SKU = nameOf(i)
				if _, _, err := at[0].orders.PutSKU(t.Context(), sku, order.Precondition{}); err != nil {
					t.Fatal(err)
				}
			}
			for round := range 3 {
				var made, refused [customers]atomic.Int32
				var first [customers]atomic.Pointer[order.Order]
				var group sync.WaitGroup
				for c := range customers {
					for i := range skus * replicas {
						group.Go(func() {
							r := order.Request{SKU: nameOf(i / replicas), Customer: fmt.Sprint("customer", c), Key: fmt.Sprint("k", round, " ", i), Quantity: 1}
							placed, err := at[i%replicas].orders.Place(t.Context(), r)
							switch {
							case err == nil:
								made[c].Add(1)
								first[c].CompareAndSwap(nil, &placed.Order)
							case errors.Is(err, order.ErrTooManyUnpaid):
								refused[c].Add(1)
							case !errors.Is(err, order.ErrUnavailable): // rolled back too often
								t.Error(err)
							}
						})
					}
				}
				group.Wait()
				for c := range customers {
					want := int32(most)
					if round > 0 {
						want = 1 // one of the two was paid
					}
					if got := made[c].Load(); got != want || refused[c].Load() == 0 {
						t.Errorf("round %d: customer %d made %d orders, and %d were refused; want %d made", round, c, got, refused[c].Load(), want)
					}
					if o := first[c].Load(); o != nil {
						if _, err := at[0].orders.Pay(t.Context(), order.Payment{Customer: o.Customer, Order: o.ID}); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
}

// One customer orders several SKUs at once. The orders above the bound leave the group; those
// within it, and those of other customers, stay in one transaction.
func TestOrdersAboveTheUnpaidBoundLeaveTheirGroup(t *testing.T) {
	t.Parallel()
	const skus, most = 40, 2
	_, db := manySKUs(t, skus)
	parts := make([]order.Part, skus)
	for i := range parts {
		parts[i] = part(t, db, i, 3)
		parts[i].MaxUnpaid, parts[i].First = most, 10*i
	}
	for _, i := range []int{5, 11, 17, 31} {
		parts[i].First = 50 // the customers of part 5
	}
	registry := prometheus.NewRegistry()
	for i, err := range order.CommitCounted(t.Context(), db, order.NewMetrics(registry), parts...) {
		if above := i == 17 || i == 31; above != errors.Is(err, order.ErrTooManyUnpaid) || !above && err != nil {
			t.Errorf("%s: got %v, above the bound %v", name(i), err, above)
		}
	}
	if got := transactions(t, registry); got != 2 {
		t.Errorf("%d transactions, want 2: with all SKUs, and without those above the bound", got)
	}
	if report, err := stock.Audit(t.Context(), db); err != nil || !report.OK {
		t.Errorf("audit: %+v, %v", report.Violations, err)
	}
}

// transactions is how many transactions of groups were sent.
func transactions(t *testing.T, registry *prometheus.Registry) (n uint64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "flashsale_commit_skus" {
			n += f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return n
}

// A customer orders at many desks at once, all of which have decided before any writes. No
// row has changed, so this is no refusal by the fence, of which operators are alerted.
func TestUnpaidBoundIsNoFenceRefusal(t *testing.T) {
	t.Parallel()
	const skus, most = 8, 2
	dsn, _ := manySKUs(t, skus)
	var decided atomic.Int32
	all := make(chan struct{})
	service := startReplica(t, options{dsn: dsn, strategy: "etcd", maxUnpaid: most, at: func(s order.Step) {
		if s != order.BeforeCommit {
			return
		}
		if decided.Add(1) == skus {
			close(all)
		}
		select {
		case <-all:
		case <-t.Context().Done():
		}
	}})
	var made, refused atomic.Int32
	var group sync.WaitGroup
	for i := range skus {
		group.Go(func() {
			_, err := service.Place(t.Context(), order.Request{SKU: name(i), Customer: "mallory", Key: fmt.Sprint(i), Quantity: 1})
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, order.ErrTooManyUnpaid):
				refused.Add(1)
			default:
				t.Errorf("%s: %v", name(i), err)
			}
		})
	}
	group.Wait()
	if made.Load() != most || refused.Load() != skus-most {
		t.Errorf("%d orders were made and %d refused, want %d and %d", made.Load(), refused.Load(), most, skus-most)
	}
	if n := value(order.MetricsOf(service).Fenced); n != 0 {
		t.Errorf("counted %v refusals by the fence, want none", n)
	}
}

// Transactions that were decided without a look at each other: only the count before
// COMMIT, under the customer's lock, can stop them. A purge deletes the customers' rows
// whenever they are not locked.
func TestUnpaidBoundIsExactInTheTransaction(t *testing.T) {
	t.Parallel()
	const skus, most, rounds = 20, 2, 20
	dsn, db := manySKUs(t, skus)
	stop := make(chan struct{})
	var purging sync.WaitGroup
	defer purging.Wait()
	defer close(stop)
	purging.Go(func() {
		for future := time.Unix(1<<32, 0); ; {
			if _, err := order.Purge(t.Context(), db, future, 1); err != nil && !stock.IsRetryable(err) {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	made := func(outcomes ...error) (n int) {
		for _, err := range outcomes {
			switch {
			case err == nil:
				n++
			case !errors.Is(err, order.ErrTooManyUnpaid) && !stock.IsRetryable(err):
				t.Error(err)
			}
		}
		return n
	}
	for round := range rounds {
		parts := make([]order.Part, skus)
		for i := range parts {
			parts[i] = part(t, db, i, 1)
			parts[i].MaxUnpaid, parts[i].Salt = most, round
		}
		var all atomic.Int32
		if round == 0 { // in one group
			all.Add(int32(made(order.CommitGroup(t.Context(), db, parts...)...)))
		} else {
			var group sync.WaitGroup
			for _, p := range parts {
				group.Go(func() { all.Add(int32(made(order.CommitGroup(t.Context(), db, p)...))) })
			}
			group.Wait()
		}
		if all.Load() != most {
			t.Errorf("round %d: one customer got %d unpaid orders, want %d", round, all.Load(), most)
		}
		execSQL(t, dsn, "UPDATE orders SET status = 'paid'")
	}
}
