package order_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Three orders, one of them another customer's, are paid with one reference at once.
func TestOneReferencePaysOneOrder(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 100}, time.Minute)
	for round := range 10 {
		reference := fmt.Sprint("p", round)
		var payments []order.Payment
		for _, customer := range []string{"ann", "ann", "ben"} {
			o := s.mustBuy(t, round, customer, fmt.Sprint(reference, len(payments)), 1)
			payments = append(payments, order.Payment{Customer: customer, Order: o.ID, Reference: reference})
		}
		var group sync.WaitGroup
		var won atomic.Pointer[order.Payment]
		for i := range 3 * len(payments) {
			p := &payments[i%len(payments)]
			group.Go(func() {
				switch paid, err := s.at(i).Pay(t.Context(), *p); {
				case err == nil && paid.PaymentReference == reference:
					if earlier := won.Swap(p); earlier != nil && earlier != p {
						t.Errorf("%s paid %s and %s", reference, earlier.Order, p.Order)
					}
				case !errors.Is(err, order.ErrReferenceUsed):
					t.Errorf("pay: got %+v, %v; want it paid, or refused as used", paid, err)
				}
			})
		}
		group.Wait()
		if won.Load() == nil {
			t.Fatalf("%s paid no order", reference)
		}
	}
	if got := s.audit(t); got.Paid != 10 || got.Reserved != 20 {
		t.Errorf("%+v; want 10 paid, and 20 still reserved", got)
	}
	if got := s.late(t); len(got) != 0 {
		t.Errorf("stored %q for a refund; each of them has paid", got)
	}
}

// Whatever a reference was used for first, it is used for nothing else: to pay an order
// that was then purged, to name an earlier payment, or to be refunded.
func TestUsedReferencesPayNothingElse(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 100}, time.Minute)
	n := 0
	pay := func(o order.Order, reference string) error {
		t.Helper()
		n++
		_, err := s.at(n).Pay(t.Context(), order.Payment{Customer: o.Customer, Order: o.ID, Reference: reference})
		return err
	}
	bought := func() order.Order {
		n++
		return s.mustBuy(t, n, "ann", fmt.Sprint("k", n), 1)
	}
	paid, named, late, namedLater := bought(), bought(), bought(), bought()
	mustBe(t, "pay", pay(paid, "paid"), nil)
	mustBe(t, "pay without a reference", pay(named, ""), nil)
	mustBe(t, "pay without a reference", pay(namedLater, ""), nil)
	mustBe(t, "name the payment", pay(named, "named"), nil)
	if _, err := s.at(0).Cancel(t.Context(), "ann", late.ID); err != nil {
		t.Fatal(err)
	}
	mustBe(t, "pay a cancelled order", pay(late, "late"), order.ErrCancelled)

	unpaid := bought()
	open := order.Order{Customer: "ben", ID: s.mustBuy(t, 0, "ben", "k", 1).ID}
	check := func() {
		t.Helper()
		for reference, its := range map[string]order.Order{"paid": paid, "named": named, "late": late} {
			mustBe(t, reference+" again", pay(its, reference), map[bool]error{true: order.ErrCancelled}[reference == "late"])
			mustBe(t, "pay with "+reference, pay(unpaid, reference), order.ErrReferenceUsed)
			mustBe(t, "pay another's with "+reference, pay(open, reference), order.ErrReferenceUsed)
			mustBe(t, "name with "+reference, pay(namedLater, reference), order.ErrReferenceUsed)
			if reference != "late" {
				mustBe(t, "pay a cancelled order with "+reference, pay(late, reference), order.ErrReferenceUsed)
			}
		}
		if got := s.late(t); len(got) != 1 || got[0] != "late" {
			t.Errorf("stored %q, want late alone", got)
		}
		if got := s.audit(t); got.Paid != 3 || got.Reserved != 2 {
			t.Errorf("%+v; want 3 paid, 2 reserved", got)
		}
	}
	check()
	if purged, err := order.Purge(t.Context(), s.replicas[0].db, s.databaseNow(t), 100); err != nil || purged != 4 {
		t.Fatalf("purged %d, %v; want 4", purged, err)
	}
	check()
	mustBe(t, "name a purged order's payment", pay(namedLater, "new"), nil)
	mustBe(t, "pay with its reference", pay(unpaid, "new"), order.ErrReferenceUsed)
	mustBe(t, "pay with an unused one", pay(unpaid, "unused"), nil)
	s.audit(t)
}

func TestPaymentHasTheOrdersAmount(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 10}, time.Minute)
	o := s.mustBuy(t, 0, "ann", "k", 2)
	total, less, dollars := o.TotalCents(), o.TotalCents()-1, "USD"
	for i, wrong := range []order.Payment{
		{AmountCents: &less}, {Currency: &dollars}, {AmountCents: &total, Currency: &dollars}, {AmountCents: &less, Currency: &o.Currency},
	} {
		for _, wrong.Customer = range []string{"ann", ""} {
			wrong.Order, wrong.Reference = o.ID, fmt.Sprint("wrong", i, wrong.Customer)
			got, err := s.at(i).Pay(t.Context(), wrong)
			mustBe(t, wrong.Reference, err, order.ErrPaymentMismatch)
			if got.Status != order.Reserved || got.TotalCents() != total {
				t.Errorf("%s: got %+v, want the order as it is", wrong.Reference, got)
			}
		}
	}
	_, err := s.at(0).Pay(t.Context(), order.Payment{Customer: "ben", Order: o.ID, Reference: "ben's", AmountCents: &less})
	mustBe(t, "another's order", err, order.ErrNotFound)
	if got := s.late(t); len(got) != 8 {
		t.Errorf("stored %q, want the eight wrong payments", got)
	}
	// The amount was reported wrongly, and is now corrected.
	paid, err := s.at(1).Pay(t.Context(), order.Payment{Order: o.ID, Reference: "wrong0", AmountCents: &total, Currency: &o.Currency})
	if err != nil || paid.Status != order.Paid || paid.Customer != "ann" {
		t.Errorf("got %+v, %v; want it paid", paid, err)
	}
	if got := s.late(t); len(got) != 7 {
		t.Errorf("stored %q, want the seven that did not pay", got)
	}
	_, err = s.at(1).Pay(t.Context(), order.Payment{Order: o.ID, Reference: "wrong0", AmountCents: &less})
	mustBe(t, "repeat it with a wrong amount", err, order.ErrPaymentMismatch)
	s.audit(t)
}

// Late is asked once for each payment that is not stored yet.
func TestLatePaymentsMayBeRefused(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 10}, time.Minute)
	o := s.mustBuy(t, 0, "ann", "k", 2)
	if _, err := s.at(0).Cancel(t.Context(), "ann", o.ID); err != nil {
		t.Fatal(err)
	}
	asked, answer := 0, errors.New("too many")
	pay := func(reference string) error {
		_, err := s.at(asked).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: reference,
			Late: func() error { asked++; return answer }})
		return err
	}
	mustBe(t, "refused", pay("p"), answer)
	if got := s.late(t); len(got) != 0 {
		t.Errorf("stored %q", got)
	}
	answer = nil
	mustBe(t, "stored", pay("p"), order.ErrCancelled)
	answer = errors.New("too many")
	mustBe(t, "stored before", pay("p"), order.ErrCancelled)
	if got := s.late(t); len(got) != 1 || asked != 2 {
		t.Errorf("stored %q after asking %d times, want p after 2", got, asked)
	}
}
