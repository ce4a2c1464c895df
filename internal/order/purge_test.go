package order_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// databaseNow reads the database's clock.
func (s *shop) databaseNow(t *testing.T) (now time.Time) {
	t.Helper()
	if err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT NOW(6)").Scan(&now); err != nil {
		t.Fatal(err)
	}
	return now
}

// Two purge at once during a sale.
func TestPurgingKeepsWhatWasSold(t *testing.T) {
	forShops(t, stock.Stock{Units: 40}, time.Minute, func(t *testing.T, s *shop) {
		var paid order.Order
		for i := range 30 {
			o := s.mustBuy(t, i, "ann", fmt.Sprint("k", i), 1)
			var err error
			switch i % 3 {
			case 0:
				paid, err = s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: fmt.Sprint("p of ", i)})
			case 1:
				_, err = s.at(i).Cancel(t.Context(), "ann", o.ID)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		before := s.databaseNow(t)
		late := s.mustBuy(t, 0, "ben", "late", 1)
		if _, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ben", Order: late.ID, Reference: "late"}); err != nil {
			t.Fatal(err)
		}
		if n, err := order.Purge(t.Context(), s.replicas[0].db, before, 3); err != nil || n != 3 {
			t.Errorf("purged %d, %v; want the requested 3", n, err)
		}
		var purged atomic.Int64
		var group sync.WaitGroup
		for _, r := range s.replicas {
			group.Go(func() {
				n, err := order.Purge(t.Context(), r.db, before, 1000)
				purged.Add(int64(n))
				if err != nil {
					t.Error(err)
				}
			})
		}
		s.mustBuy(t, 1, "cay", "k", 1)
		group.Wait()
		if purged.Load() != 17 {
			t.Errorf("purged %d, want 17: the 20 that were paid or cancelled before, less 3", purged.Load())
		}
		if got := s.audit(t); got.Paid != 11 || got.Reserved != 11 || got.Returned != 10 || got.Available != 18 {
			t.Errorf("%+v; want 11 paid, 11 reserved, 10 returned, 18 available", got)
		}
		_, err := s.at(0).Find(t.Context(), "ann", paid.ID)
		mustBe(t, "find a purged order", err, order.ErrNotFound)
		if again, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: paid.ID, Reference: paid.PaymentReference}); err != nil || again.PaymentReference != paid.PaymentReference {
			t.Errorf("pay a purged order again: got %+v, %v", again, err)
		}
		_, err = s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: paid.ID, Reference: "p2"})
		mustBe(t, "pay a purged order once more", err, order.ErrAlreadyPaid)
		if got := s.late(t); len(got) != 1 || got[0] != "p2" {
			t.Errorf("stored %q, want p2", got)
		}
	})
}

// The limit counts paid orders until the sale has ended.
func TestPurgingLeavesTheLimitInForce(t *testing.T) {
	t.Parallel()
	one := int32(1)
	s := openShop(t, "etcd", stock.Stock{Units: 5, PerCustomerLimit: &one}, time.Minute)
	o := s.mustBuy(t, 0, "ann", "k", 1)
	if _, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID}); err != nil {
		t.Fatal(err)
	}
	now := s.databaseNow(t)
	if n, err := order.Purge(t.Context(), s.replicas[0].db, now, 1000); err != nil || n != 0 {
		t.Errorf("purged %d, %v; want none during the sale", n, err)
	}
	_, err := s.at(0).Place(t.Context(), buy("ann", "k2", 1))
	mustBe(t, "buy one more", err, order.ErrCustomerLimit)
	change(t, s.at(0), stock.Stock{PerCustomerLimit: &one, SaleEndsAt: &now})
	if n, err := order.Purge(t.Context(), s.replicas[0].db, now, 1000); err != nil || n != 1 {
		t.Errorf("purged %d, %v; want one after the sale", n, err)
	}
	s.audit(t)
}

// Nobody can end the sale of a SKU that was withdrawn, so its limit must not keep its orders.
func TestPurgingIncludesOrdersOfWithdrawnSKUs(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 5, PerCustomerLimit: new(int32(1))}, time.Minute)
	o := s.mustBuy(t, 0, "ann", "k", 1)
	if _, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID}); err != nil {
		t.Fatal(err)
	}
	mustBe(t, "withdraw", s.at(0).Withdraw(t.Context(), testSKU, order.Precondition{}), nil)
	if n, err := order.Purge(t.Context(), s.replicas[0].db, s.databaseNow(t), 1000); err != nil || n != 1 {
		t.Errorf("purged %d, %v; want the paid one", n, err)
	}
	s.audit(t)
}

// Under a bound on unpaid orders, each customer has a row.
func TestPurgingForgetsCustomers(t *testing.T) {
	t.Parallel()
	const old = 1200 // more than two batches
	r := start(t, options{dsn: newDSN(t, stock.Stock{Units: 5}), strategy: "etcd", maxUnpaid: 1})
	customers := func() (names []string) {
		t.Helper()
		names, err := stock.Query(t.Context(), r.db.SQL, func(name *string) []any { return []any{name} }, "SELECT customer FROM customers ORDER BY customer")
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if _, err := r.db.SQL.ExecContext(t.Context(), "INSERT INTO customers SELECT CONCAT('old', seq), NOW(6) - INTERVAL 2 DAY FROM "+sandboxtest.Numbers(old)+" n"); err != nil {
		t.Fatal(err)
	}
	for _, customer := range []string{"ann", "old7"} {
		if _, err := r.orders.Place(t.Context(), buy(customer, "k", 1)); err != nil {
			t.Fatal(err)
		}
	}
	if got := customers(); len(got) != old+1 {
		t.Fatalf("%d customers, want %d", len(got), old+1)
	}
	now, err := r.db.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := order.Purge(t.Context(), r.db, now.Add(-24*time.Hour), 1000); err != nil || n != 0 {
		t.Errorf("purged %d, %v; want no order", n, err)
	}
	if got := customers(); !slices.Equal(got, []string{"ann", "old7"}) {
		t.Errorf("the customers are %q, want those who ordered today", got)
	}
	_, err = r.orders.Place(t.Context(), buy("old7", "k2", 1))
	mustBe(t, "a second unpaid order", err, order.ErrTooManyUnpaid)
}

// Neither the copy nor the delete may lose the reference.
func TestPaymentReferenceIsAddedDuringArchiving(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 5}, time.Minute)
	execSQL(t, s.dsn, "CREATE TRIGGER slow AFTER INSERT ON archived_orders FOR EACH ROW DO SLEEP(1)")
	for i := range 3 { // on a busy machine the archiving may end before it is seen
		if addsReferenceDuringArchiving(t, s, fmt.Sprint("k", i)) {
			return
		}
	}
	t.Error("no order was seen while it was archived")
}

// addsReferenceDuringArchiving returns false if the archiving ended before it was seen.
func addsReferenceDuringArchiving(t *testing.T, s *shop, key string) (seen bool) {
	t.Helper()
	o := s.mustBuy(t, 0, "ann", key, 1)
	if _, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID}); err != nil {
		t.Fatal(err)
	}
	db, purged := s.replicas[0].db, make(chan error, 1)
	now := s.databaseNow(t)
	go func() {
		_, err := order.Purge(t.Context(), db, now, 1000)
		purged <- err
	}()
	sandboxtest.Eventually(t, "the order to be archived", func() bool {
		seen = slices.ContainsFunc(connections(t, db.Name), func(c sandbox.Connection) bool { return c.State == "User sleep" })
		return seen || len(purged) > 0
	})
	named, err := s.at(1).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: key})
	if err != nil || named.PaymentReference != key {
		t.Errorf("add the reference: got %+v, %v; want %s", named, err, key)
	}
	if err := <-purged; err != nil {
		t.Fatal(err)
	}
	_, err = s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "another"})
	mustBe(t, "another payment", err, order.ErrAlreadyPaid)
	return seen
}
