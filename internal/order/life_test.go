package order_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// shop is one or two replicas that sell one SKU.
type shop struct {
	dsn      string
	strategy string
	replicas [2]*replica
}

// ofEachKind are strategies of each kind: with desks, with a lock, without one, and with
// stock in etcd.
var ofEachKind = []string{"etcd", "lock-table", "conditional", "version", "etcd-cas"}

// forShops runs f with a shop under each kind of strategy.
func forShops(t *testing.T, s stock.Stock, window time.Duration, f func(t *testing.T, s *shop)) {
	t.Parallel()
	for _, name := range ofEachKind {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, openShop(t, name, s, window))
		})
	}
}

func openShop(t *testing.T, name string, s stock.Stock, window time.Duration) *shop {
	t.Helper()
	opened := &shop{dsn: newDSN(t, s), strategy: name}
	for i := range opened.replicas {
		opened.replicas[i] = start(t, options{dsn: opened.dsn, strategy: name, window: window})
	}
	if opened.replicas[0].units != nil {
		change(t, opened.replicas[0].orders, s) // puts its units into etcd
	}
	return opened
}

// at is a replica; i may be larger than their number.
func (s *shop) at(i int) *order.Service { return s.replicas[i%len(s.replicas)].orders }

// mustBuy makes an order.
func (s *shop) mustBuy(t *testing.T, at int, customer, key string, n int32) order.Order {
	t.Helper()
	placed, err := s.at(at).Place(t.Context(), buy(customer, key, n))
	if err != nil {
		t.Fatalf("buy %d for %s: %v", n, customer, err)
	}
	return placed.Order
}

// audit fails the test unless the stores pass the audit.
func (s *shop) audit(t *testing.T) stock.Balance {
	t.Helper()
	if units := s.replicas[0].units; units != nil {
		report := auditBoth(t, s.dsn, units)
		if !report.OK {
			t.Errorf("the audit found %+v", report.Violations)
		}
		return report.SKUs[0]
	}
	return audit(t, s.dsn)
}

func mustBe(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || (want == nil && got != nil) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// late reads the references that are stored for a refund.
func (s *shop) late(t *testing.T) (references []string) {
	t.Helper()
	var after order.LateCursor
	for {
		page, err := s.at(0).LatePayments(t.Context(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return references
		}
		for _, p := range page {
			references = append(references, p.Reference)
		}
		after = page[len(page)-1].Cursor()
	}
}

func TestOrderIsPaidOnceAndExtraPaymentsAreStored(t *testing.T) {
	forShops(t, stock.Stock{Units: 10}, time.Minute, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		for i, reference := range []string{"p1", "p1", ""} {
			paid, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: reference})
			if err != nil || paid.Status != order.Paid || paid.PaymentReference != "p1" || paid.ClosedAt == nil {
				t.Errorf("payment %d: got %+v, %v; want it paid by p1", i, paid, err)
			}
		}
		for i := range 2 {
			_, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "p2"})
			mustBe(t, "another payment", err, order.ErrAlreadyPaid)
		}
		_, err := s.at(1).Cancel(t.Context(), "ann", o.ID)
		mustBe(t, "cancel a paid order", err, order.ErrAlreadyPaid)
		_, err = s.at(0).Pay(t.Context(), order.Payment{Customer: "ben", Order: o.ID, Reference: "p3"})
		mustBe(t, "pay another's order", err, order.ErrNotFound)
		again, err := s.at(1).Place(t.Context(), buy("ann", "k", 2))
		if err != nil || !again.Replayed || !cmp.Equal(again.Order, o) {
			t.Errorf("replay: got %+v, %v; want the order as it was made", again, err)
		}
		if got := s.late(t); len(got) != 1 || got[0] != "p2" {
			t.Errorf("stored %q, want p2, once", got)
		}
		if got := s.audit(t); got.Paid != 2 || got.Available != 8 {
			t.Errorf("%+v; want 2 paid, 8 available", got)
		}
	})
}

// The customer has paid, but the database went back in time and has lost the order.
func TestPaymentOfALostOrderIsStored(t *testing.T) {
	forShops(t, stock.Stock{Units: 10}, time.Minute, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		gone := o.ID
		gone[len(gone)-1]++
		for i := range 2 {
			_, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: gone, Reference: "p1"})
			mustBe(t, "pay an order that is not there", err, order.ErrNotFound)
			_, err = s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: gone})
			mustBe(t, "pay it without a reference", err, order.ErrNotFound)
			_, err = s.at(i).Pay(t.Context(), order.Payment{Customer: "ben", Order: o.ID, Reference: "p2"})
			mustBe(t, "pay another's order", err, order.ErrNotFound)
		}
		late, err := s.at(0).LatePayments(t.Context(), order.LateCursor{}, 10)
		if err != nil || len(late) != 1 || late[0].OrderID != gone || late[0].Customer != "ann" || late[0].Reference != "p1" {
			t.Errorf("stored %+v, %v; want p1 of ann, once", late, err)
		}
		s.audit(t)
	})
}

// The shop reports the payment first, and its reference later.
func TestPaymentReferenceIsAddedLater(t *testing.T) {
	forShops(t, stock.Stock{Units: 10}, time.Minute, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		var closed *time.Time
		for i, c := range []struct{ reference, want string }{{"", ""}, {"p1", "p1"}, {"", "p1"}, {"p1", "p1"}} {
			paid, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: c.reference})
			if err != nil || paid.Status != order.Paid || paid.PaymentReference != c.want || paid.ClosedAt == nil {
				t.Fatalf("payment %d: got %+v, %v; want it paid by %q", i, paid, err, c.want)
			}
			if closed == nil {
				closed = paid.ClosedAt
			}
			if !paid.ClosedAt.Equal(*closed) {
				t.Errorf("paid at %s, then at %s", closed, paid.ClosedAt)
			}
		}
		_, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "p2"})
		mustBe(t, "another payment", err, order.ErrAlreadyPaid)
		if got := s.late(t); len(got) != 1 || got[0] != "p2" {
			t.Errorf("stored %q, want p2", got)
		}
	})
}

// The other references are stored for a refund.
func TestOneOfManyReferencesIsTheOrders(t *testing.T) {
	forShops(t, stock.Stock{Units: 10}, time.Minute, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		if _, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID}); err != nil {
			t.Fatal(err)
		}
		const payments = 6
		var group sync.WaitGroup
		var won atomic.Int32
		for i := range payments {
			group.Go(func() {
				_, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: fmt.Sprint("p", i)})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, order.ErrAlreadyPaid) {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if got := s.late(t); won.Load() != 1 || len(got) != payments-1 {
			t.Errorf("%d references were accepted, %q stored; want 1 and %d", won.Load(), got, payments-1)
		}
	})
}

func TestPaymentAfterTheWindowNeverGetsTheUnits(t *testing.T) {
	forShops(t, stock.Stock{Units: 3}, time.Second, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		s.awaitDue(t, o.ID)
		for i, reference := range []string{"p1", "p1", "", "p2"} { // no Expirer runs
			_, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: reference})
			mustBe(t, "pay late", err, order.ErrPaymentWindowOver)
		}
		if got := s.late(t); len(got) != 2 || got[0] != "p1" || got[1] != "p2" {
			t.Errorf("stored %q, want p1 and p2", got)
		}
		if got := s.audit(t); got.Reserved != 2 || got.Paid != 0 {
			t.Errorf("%+v; want 2 reserved", got)
		}
	})
}

// awaitDue waits until an order's window is over, by the database's clock.
func (s *shop) awaitDue(t *testing.T, id order.ID) {
	t.Helper()
	for due := false; !due; {
		err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT expires_at <= NOW(6) OR SLEEP(0.02) FROM orders WHERE id = ?", id[:]).Scan(&due)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestCancellingReturnsTheUnitsOnce(t *testing.T) {
	two := int32(2)
	forShops(t, stock.Stock{Units: 2, PerCustomerLimit: &two}, time.Minute, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		_, err := s.at(1).Place(t.Context(), buy("ben", "k", 1))
		mustBe(t, "buy what is sold out", err, order.ErrSoldOut)
		_, err = s.at(1).Cancel(t.Context(), "ben", o.ID)
		mustBe(t, "cancel another's order", err, order.ErrNotFound)
		var group sync.WaitGroup
		for i := range 6 {
			group.Go(func() {
				got, err := s.at(i).Cancel(t.Context(), "ann", o.ID)
				if err != nil || got.Status != order.Cancelled || got.ClosedAt == nil {
					t.Errorf("cancel: got %+v, %v", got, err)
				}
			})
		}
		group.Wait()
		_, err = s.at(1).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "p"})
		mustBe(t, "pay a cancelled order", err, order.ErrCancelled)
		if got := s.late(t); len(got) != 1 || got[0] != "p" {
			t.Errorf("stored %q, want p", got)
		}
		// The customer may buy up to the limit again, at both replicas.
		s.mustBuy(t, 0, "ann", "k2", 1)
		s.mustBuy(t, 1, "ann", "k3", 1)
		_, err = s.at(0).Place(t.Context(), buy("ann", "k4", 1))
		if err == nil {
			t.Error("a third unit was sold, the limit is two")
		}
		again, err := s.at(1).Place(t.Context(), buy("ann", "k", 2))
		if err != nil || !again.Replayed || !cmp.Equal(again.Order, o) {
			t.Errorf("replay: got %+v, %v; want the order as it was made", again, err)
		}
		if got := s.audit(t); got.Reserved != 2 || got.Returned != 2 || got.Available != 0 {
			t.Errorf("%+v; want 2 reserved, 2 returned", got)
		}
	})
}

// Of a concurrent payment and cancellation, one wins.
func TestPaymentAgainstCancellation(t *testing.T) {
	forShops(t, stock.Stock{Units: 40}, time.Minute, func(t *testing.T, s *shop) {
		var paid, cancelled atomic.Int64
		var group sync.WaitGroup
		for i := range 40 {
			o := s.mustBuy(t, i, "ann", fmt.Sprint("k", i), 1)
			group.Go(func() {
				time.Sleep(rand.N(5 * time.Millisecond))
				_, err := s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: fmt.Sprint("p", i)})
				if err == nil {
					paid.Add(1)
				} else {
					mustBe(t, "pay", err, order.ErrCancelled)
				}
			})
			group.Go(func() {
				_, err := s.at(i+1).Cancel(t.Context(), "ann", o.ID)
				if err == nil {
					cancelled.Add(1)
				} else {
					mustBe(t, "cancel", err, order.ErrAlreadyPaid)
				}
			})
		}
		group.Wait()
		got := s.audit(t)
		t.Logf("%d paid, %d cancelled", paid.Load(), cancelled.Load())
		if got.Paid != paid.Load() || got.Returned != cancelled.Load() || got.Reserved != 0 || got.Available != cancelled.Load() {
			t.Errorf("%d paid, %d cancelled: %+v", paid.Load(), cancelled.Load(), got)
		}
	})
}

func TestRestockWhileSoldOutSellsAgainAtBothReplicas(t *testing.T) {
	forShops(t, stock.Stock{Units: 1}, time.Minute, func(t *testing.T, s *shop) {
		s.mustBuy(t, 0, "ann", "k", 1)
		for i := range 2 {
			_, err := s.at(i).Place(t.Context(), buy("ben", "k", 1))
			mustBe(t, "buy what is sold out", err, order.ErrSoldOut)
		}
		request := order.RestockRequest{SKU: testSKU, Key: "r", Units: 2}
		var made atomic.Int32
		var mu sync.Mutex
		answers := map[order.Restock]bool{}
		var group sync.WaitGroup
		for i := range 6 {
			group.Go(func() {
				got, err := s.at(i).Restock(t.Context(), request)
				if err != nil {
					t.Error(err)
					return
				}
				if !got.Replayed {
					made.Add(1)
				}
				mu.Lock()
				answers[got.Restock] = true
				mu.Unlock()
			})
		}
		group.Wait()
		if made.Load() != 1 || len(answers) != 1 {
			t.Errorf("made %d times, %d different answers; want 1 and 1", made.Load(), len(answers))
		}
		s.mustBuy(t, 0, "ben", "k", 1)
		s.mustBuy(t, 1, "cay", "k", 1)
		for what, r := range map[string]order.RestockRequest{
			"other units": {SKU: testSKU, Key: "r", Units: 3}} {
			_, err := s.at(0).Restock(t.Context(), r)
			mustBe(t, what, err, order.ErrKeyReused)
		}
		_, err := s.at(0).Restock(t.Context(), order.RestockRequest{SKU: "none", Key: "r2", Units: 3})
		mustBe(t, "no such SKU", err, stock.ErrUnknownSKU)
		if got := s.audit(t); got.Units != 3 || got.Available != 0 {
			t.Errorf("%+v; want 3 units, none available", got)
		}
		execSQL(t, s.dsn, "UPDATE stock SET units = ?, available = ?", int64(stock.MaxUnits), int64(stock.MaxUnits-3))
		_, err = s.at(1).Restock(t.Context(), order.RestockRequest{SKU: testSKU, Key: "r3", Units: 1})
		mustBe(t, "too many units", err, stock.ErrTooManyUnits)
	})
}

func execSQL(t *testing.T, dsn, query string, args ...any) {
	t.Helper()
	if _, err := open(t, dsn).SQL.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// A desk sells on one replica while orders are cancelled at the other.
func TestCancellingWhileAnotherReplicaSells(t *testing.T) {
	forShops(t, stock.Stock{Units: 20}, time.Minute, func(t *testing.T, s *shop) {
		var sold, cancelled atomic.Int64
		var group sync.WaitGroup
		for buyer := range 6 {
			group.Go(func() {
				for i := range 10 {
					placed, err := s.at(buyer).Place(t.Context(), buy(fmt.Sprint("customer", buyer), fmt.Sprint("k", i), 1))
					switch {
					case errors.Is(err, order.ErrSoldOut):
						continue
					case err != nil:
						t.Error(err)
						return
					}
					sold.Add(1)
					if i%2 == 0 {
						if _, err := s.at(buyer+1).Cancel(t.Context(), fmt.Sprint("customer", buyer), placed.Order.ID); err != nil {
							t.Error(err)
							return
						}
						cancelled.Add(1)
					}
				}
			})
		}
		group.Wait()
		got := s.audit(t)
		if got.Returned != cancelled.Load() || got.Reserved != sold.Load()-cancelled.Load() {
			t.Errorf("%d sold, %d cancelled: %+v", sold.Load(), cancelled.Load(), got)
		}
	})
}

// A restock up to the maximum is replayed, also to concurrent requests that would exceed it.
func TestRestockUpToTheMaximumIsReplayed(t *testing.T) {
	forShops(t, stock.Stock{Units: 1}, time.Minute, func(t *testing.T, s *shop) {
		execSQL(t, s.dsn, "UPDATE stock SET units = ?, available = ?", int64(stock.MaxUnits-5), int64(stock.MaxUnits-5))
		var made atomic.Int32
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				got, err := s.at(i).Restock(t.Context(), order.RestockRequest{SKU: testSKU, Key: "r", Units: 5})
				if err != nil {
					t.Error(err)
				} else if !got.Replayed {
					made.Add(1)
				}
			})
		}
		group.Wait()
		if made.Load() != 1 {
			t.Errorf("made %d times", made.Load())
		}
	})
}

// A payment has two statements. If one of them times out on a lock, the outcome is
// unknown.
func TestPaymentOfALockedOrderIsUnknown(t *testing.T) {
	t.Parallel()
	s := openShop(t, "conditional", stock.Stock{Units: 1}, time.Minute)
	o := s.mustBuy(t, 0, "ann", "k", 1)
	tx, err := s.replicas[0].db.SQL.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "SELECT id FROM orders WHERE id = ? FOR UPDATE", o.ID[:]); err != nil {
		t.Fatal(err)
	}
	_, err = s.at(1).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "p"})
	mustBe(t, "pay", err, order.ErrUnknown)
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if paid, err := s.at(1).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "p"}); err != nil || paid.Status != order.Paid {
		t.Errorf("pay again: got %+v, %v", paid, err)
	}
}
