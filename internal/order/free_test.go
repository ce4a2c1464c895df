package order_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// An order that costs nothing is created as paid at every replica, is replayed as paid,
// and does not expire.
func TestFreeOrderIsPaidWhenItIsMade(t *testing.T) {
	forShops(t, stock.Stock{Units: 10}, time.Second, func(t *testing.T, s *shop) {
		free := thing(stock.Stock{})
		free.PriceCents = 0
		if _, _, err := s.at(0).PutSKU(t.Context(), free, order.Precondition{}); err != nil {
			t.Fatal(err)
		}
		expire(t, s.replicas[1], s.dsn, false)
		var made []order.Order
		for i, customer := range []string{"ann", "ben"} { // forwarded if one replica sells
			o := s.mustBuy(t, i, customer, "k", 2)
			if o.Status != order.Paid || o.ClosedAt == nil || !o.ClosedAt.Equal(o.CreatedAt) || o.ExpiresAt.Sub(o.CreatedAt) != time.Second {
				t.Errorf("made %+v; want it created as paid", o)
			}
			made = append(made, o)
		}
		same := func(what string, got order.Order, err error) {
			t.Helper()
			if diff := cmp.Diff(made[0], got); err != nil || diff != "" {
				t.Errorf("%s: %v; the order has changed: %s", what, err, diff)
			}
		}
		// A later order with a price expires; the free ones do not.
		change(t, s.at(0), stock.Stock{})
		priced := s.mustBuy(t, 1, "cat", "k", 1)
		s.await(t, "SELECT status = 'expired' FROM orders WHERE id = ?", priced.ID[:])
		for i := range s.replicas {
			got, err := s.at(i).Find(t.Context(), "ann", made[0].ID)
			same("read", got, err)
			again, err := s.at(i).Place(t.Context(), buy("ann", "k", 2))
			same("asked again", again.Order, err)
			got, err = s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: made[0].ID})
			same("paid again", got, err)
			_, err = s.at(i).Cancel(t.Context(), "ann", made[0].ID)
			mustBe(t, "cancel", err, order.ErrAlreadyPaid)
		}
		// A reference can still be given. It is stored, and does not change the replay.
		if got, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ann", Order: made[0].ID, Reference: "p1"}); err != nil || got.PaymentReference != "p1" || !got.ClosedAt.Equal(*made[0].ClosedAt) {
			t.Errorf("paid by p1: got %+v, %v", got, err)
		}
		again, err := s.at(1).Place(t.Context(), buy("ann", "k", 2))
		same("asked again after p1", again.Order, err)
		if s.replicas[0].units != nil {
			s.awaitUnits(t, 6) // they are given back after the order has expired
		}
		if got := s.audit(t); got.Paid != 4 || got.Available != 6 || got.Reserved != 0 {
			t.Errorf("%+v; want 4 paid, 6 available", got)
		}
	})
}
