package order_test

import (
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// A seller that cannot answer any more gives up the lock: to a replica that it does
// not hear, say. The orders that were sent to it are then sent to the next seller,
// however patient their replica is with silence.
func TestOrdersLeaveASilentLinkOnceTheirTenureHasEnded(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	seller, link := overLink(t, options{dsn: dsn, strategy: "etcd"})
	other := start(t, options{dsn: dsn, strategy: "etcd"})
	mustPlace(t, seller, buy("ann", "k", 1))
	mustPlace(t, other, buy("ben", "k", 1)) // the link stands
	order.NeverTakeOver(other.orders)
	defer link.Hold()()
	placed := mustPlace(t, other, buy("cat", "k", 1))
	if found, err := other.orders.Find(t.Context(), "cat", placed.Order.ID); err != nil || found != placed.Order {
		t.Errorf("found %+v, %v; want %+v", found, err, placed.Order)
	}
	if got := audit(t, dsn).Reserved; got != 3 {
		t.Errorf("%d units reserved, want 3", got)
	}
}
