package order_test

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// A forwarded order waits while its seller loses the lock. The seller must not decide it
// in a later tenure: the other replica looks up the seller again, and finds none.
func TestForwardedOrderIsDecidedInItsTenureOnly(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	var armed atomic.Bool
	reached, commit := make(chan struct{}), make(chan struct{})
	seller := start(t, options{dsn: dsn, strategy: "etcd", at: func(s order.Step) {
		if s == order.BeforeCommit && armed.CompareAndSwap(true, false) {
			close(reached)
			<-commit
		}
	}})
	other := start(t, options{dsn: dsn, strategy: "etcd"})
	mustPlace(t, seller, buy("ann", "k", 1))
	mustPlace(t, other, buy("ben", "k", 1)) // opens the link
	armed.Store(true)
	var group errgroup.Group
	place := func(at *replica, customer string) {
		group.Go(func() error {
			_, err := at.orders.Place(t.Context(), buy(customer, "k", 1))
			return err
		})
	}
	place(seller, "cat")
	sandboxtest.Await(t, reached, "the seller's commit")
	place(other, "dan")
	sandboxtest.Eventually(t, "the forwarded order to wait", func() bool { return value(order.MetricsOf(seller.orders).Waiting) == 1 })
	if err := seller.locker.(lock.Inspector).Revoke(t.Context(), testSKU); err != nil {
		t.Error(err)
	}
	sandboxtest.Eventually(t, "the seller to lose its lock", func() bool {
		_, found := seller.locker.(lock.Viewer).Holder(testSKU)
		return !found
	})
	close(commit)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if moved, now := value(order.MetricsOf(other.orders).Moved), held(other); moved == 0 || now != 1 {
		t.Errorf("the order moved %v times, and the other replica holds %v locks; want at least 1, and 1", moved, now)
	}
	if got := audit(t, dsn).Reserved; got != 4 {
		t.Errorf("%d units reserved, want 4", got)
	}
}
