package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"flashsale/client"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestAnOrdersLife(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 10)
	ctx, ann, admin := t.Context(), s.as(t, "ann of "+sku), s.administrator(t)
	var ids []client.OrderID
	for range 3 {
		placed, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 1})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, placed.Order.ID)
	}
	for range 2 { // repeated calls get the same answer
		paid, err := ann.Pay(ctx, ids[0], client.Payment{Reference: "payment-1"})
		if err != nil || paid.Status != client.Paid || paid.PaymentReference == nil || *paid.PaymentReference != "payment-1" {
			t.Errorf("paid: %+v, %v", paid, err)
		}
		cancelled, err := ann.Cancel(ctx, ids[1])
		if err != nil || cancelled.Status != client.Cancelled {
			t.Errorf("cancelled: %+v, %v", cancelled, err)
		}
	}
	late := "late of " + sku
	for _, tt := range []struct {
		err  error
		want client.Kind
	}{
		{second(ann.Pay(ctx, ids[0], client.Payment{Reference: "another of " + sku})), client.ErrAlreadyPaid},
		{second(ann.Pay(ctx, ids[1], client.Payment{Reference: late})), client.ErrOrderCancelled},
		{second(ann.Cancel(ctx, ids[0])), client.ErrAlreadyPaid},
		{second(s.as(t, "bob").Cancel(ctx, ids[2])), client.ErrUnknownOrder},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%v, want %v", tt.err, tt.want)
		}
	}

	var listed []client.OrderID
	for order, err := range ann.Orders(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, order.ID)
	}
	slices.Reverse(listed) // oldest first
	if !slices.Equal(listed, ids) {
		t.Errorf("listed %v, want %v", listed, ids)
	}
	var sold []client.OrderID
	for o, err := range admin.OrdersOf(ctx, sku) {
		if err != nil {
			t.Fatal(err)
		}
		sold = append(sold, o.ID)
	}
	if !slices.Equal(sold, ids) {
		t.Errorf("the SKU's orders are %v, want %v", sold, ids)
	}
	found := false
	for p, err := range admin.LatePayments(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		found = found || p.OrderID == ids[1] && p.Reference == late
	}
	if !found {
		t.Error("the late payment is not listed")
	}
}

func second[T any](_ T, err error) error { return err }

func third[T, U any](_ T, _ U, err error) error { return err }

func TestPaymentsAndRestocksSurviveLostAnswers(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 5)
	ctx := t.Context()
	placed, err := s.as(t, "ann").Place(ctx, client.Purchase{SKU: sku, Quantity: 1})
	if err != nil {
		t.Fatal(err)
	}
	lossy := newProxy(t, s.urls[0], 2, dropAnswer)
	if paid, err := s.as(t, "ann", lossy.url).Pay(ctx, placed.Order.ID, client.Payment{Reference: "payment of " + sku}); err != nil || paid.Status != client.Paid {
		t.Errorf("pay: %+v, %v", paid, err)
	}
	lossy = newProxy(t, s.urls[0], 2, dropAnswer)
	if restock, err := s.administrator(t, lossy.url).Restock(ctx, sku, 4, ""); err != nil || restock.Units != 4 {
		t.Errorf("restock: %+v, %v", restock, err)
	}
	if keys := slices.Compact(lossy.keys()); len(keys) != 1 {
		t.Errorf("the tries of a restock have the keys %q", keys)
	}
	put, err := s.administrator(t).PutSKU(ctx, sku, lamp(5), client.IfExists())
	if err != nil || put.SKU.Units != 9 || put.Warning == "" {
		t.Errorf("after the restock: %+v, %v; want 9 units and a warning", put, err)
	}
}

func TestOutdatedChangeIsRefused(t *testing.T) {
	s := theShop(t)
	admin, ctx, sku := s.administrator(t), t.Context(), newSKU()
	first, err := admin.PutSKU(ctx, sku, lamp(5), client.IfAbsent())
	if err != nil || !first.Created || first.ETag == "" {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := admin.PutSKU(ctx, sku, lamp(5), client.IfMatch(first.ETag)); err != nil {
		t.Error(err)
	}
	for _, only := range []client.Precondition{client.IfMatch(first.ETag), client.IfAbsent()} {
		if _, err := admin.PutSKU(ctx, sku, lamp(5), only); !errors.Is(err, client.ErrPreconditionFailed) {
			t.Errorf("%+v: got %v, want %v", only, err, client.ErrPreconditionFailed)
		}
	}
	if err := admin.RevokeLock(ctx, sku); err != nil && !errors.Is(err, client.ErrLockNotHeld) {
		t.Errorf("revoke: %v", err)
	}
	if _, err := admin.Locks(ctx); err != nil {
		t.Errorf("locks: %v", err)
	}
}

// weakening makes ETags weak, as nginx does when it compresses.
type weakening struct{ http.ResponseWriter }

func (w weakening) WriteHeader(status int) {
	if tag := w.Header().Get("ETag"); tag != "" {
		w.Header().Set("ETag", "W/"+tag)
	}
	w.ResponseWriter.WriteHeader(status)
}

func TestPutSKUWorksBehindACompressingProxy(t *testing.T) {
	s := theShop(t)
	proxy := newProxy(t, s.urls[0], 100, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w = weakening{w}
		}
		pass.ServeHTTP(w, r)
	})
	admin, ctx, sku := s.administrator(t, proxy.url), t.Context(), s.sell(t, 5)
	_, etag, err := admin.SKU(ctx, sku)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // with the ETag of SKU, then with that of PutSKU
		put, err := admin.PutSKU(ctx, sku, lamp(5), client.IfMatch(etag))
		if err != nil {
			t.Errorf("change %d with %s: %v", i, etag, err)
		}
		etag = put.ETag
	}
}

// Watch continues on another replica after its replica is killed.
func TestWatchSurvivesAKilledReplica(t *testing.T) {
	s := openShop(t, 2)
	sku := s.sell(t, 10)
	ann := s.as(t, "ann", s.urls[1])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := int64(0)
	for event, err := range s.with(t, client.Config{}).Watch(ctx, sku) {
		if err != nil {
			t.Fatal(err)
		}
		if event.SKU != sku || event.Seq <= last && last > 0 {
			t.Fatalf("%+v after seq %d", event, last)
		}
		last = event.Seq
		switch event.Available {
		case 10: // the stock at first
			s.replicas[0].Kill()
			if _, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 3}); err != nil {
				t.Fatal(err)
			}
		case 7:
			if _, err := ann.Place(ctx, client.Purchase{SKU: sku, Quantity: 7}); err != nil {
				t.Fatal(err)
			}
		case 0:
			return
		default:
			t.Fatalf("%+v", event)
		}
	}
	t.Error("Watch ended without a reason")
}

func TestWithdrawnSKULeavesTheListAndTheStream(t *testing.T) {
	s := theShop(t)
	admin, ctx, sku := s.administrator(t), t.Context(), newSKU()
	secret := lamp(5)
	secret.VisibleFrom = new(time.Now().Add(time.Hour))
	put, err := admin.PutSKU(ctx, sku, secret, client.IfAbsent())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.with(t, client.Config{}).SKU(ctx, sku); !errors.Is(err, client.ErrUnknownSKU) {
		t.Errorf("an unannounced SKU: got %v, want %v", err, client.ErrUnknownSKU)
	}
	read, etag, err := admin.AnySKU(ctx, sku)
	if err != nil || etag != put.ETag || read.VisibleFrom == nil || read.WithdrawnAt != nil {
		t.Errorf("administrators read %+v with %s, %v; want it with %s", read, etag, err, put.ETag)
	}
	announced, err := admin.PutSKU(ctx, sku, lamp(5), client.IfMatch(etag))
	if err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "the announcement", func() bool { return third(s.with(t, client.Config{}).SKU(ctx, sku)) == nil })
	watching, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := admin.WithdrawSKU(ctx, sku, etag); !errors.Is(err, client.ErrPreconditionFailed) {
		t.Errorf("with an old ETag: got %v, want %v", err, client.ErrPreconditionFailed)
	}
	gone := false
	for event, err := range s.with(t, client.Config{}).Watch(watching, sku) {
		if err != nil {
			t.Fatal(err)
		}
		if gone = event.Gone != nil && *event.Gone; gone {
			break
		}
		lossy := newProxy(t, s.urls[0], 2, dropAnswer)
		if err := s.administrator(t, lossy.url).WithdrawSKU(ctx, sku, announced.ETag); err != nil {
			t.Errorf("with lost answers: %v", err)
		}
	}
	if !gone {
		t.Error("the stream does not say that the SKU is gone")
	}
	if _, err := admin.Restock(ctx, sku, 1, ""); !errors.Is(err, client.ErrSKUWithdrawn) {
		t.Errorf("restock: got %v, want %v", err, client.ErrSKUWithdrawn)
	}
	found := false
	for one, err := range admin.AllSKUs(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		found = found || one.SKU == sku && one.WithdrawnAt != nil
	}
	if !found {
		t.Error("administrators do not see the withdrawn SKU")
	}
}

func TestWatchEndsWithItsContextAndItsError(t *testing.T) {
	s := theShop(t)
	sku := s.sell(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got error
	for _, err := range s.with(t, client.Config{}).Watch(ctx, sku) {
		got = err
		cancel()
	}
	if !errors.Is(got, context.Canceled) {
		t.Errorf("after the context's end: %v", got)
	}
	for _, err := range s.with(t, client.Config{}).Watch(t.Context(), fmt.Sprint(sku, "-not")) {
		got = err
	}
	if !errors.Is(got, client.ErrUnknownSKU) {
		t.Errorf("of an unknown SKU: %v", got)
	}
}
