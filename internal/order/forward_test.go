package order_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// overLink starts a replica that others reach over a link that can be cut.
func overLink(t *testing.T, o options) (*replica, *sandboxtest.Link) {
	t.Helper()
	var link *sandboxtest.Link
	o.via = func(addr string) string {
		link = sandboxtest.NewLink(t, addr)
		return link.Addr
	}
	return start(t, o), link
}

func mustPlace(t *testing.T, at *replica, r order.Request) order.Placed {
	t.Helper()
	placed, err := at.orders.Place(t.Context(), r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return placed
}

func held(r *replica) float64 { return value(order.MetricsOf(r.orders).Held) }

// One replica sells a SKU in one tenure, whichever replica the buyers use. Refusals and
// replays come from the seller too.
func TestOrdersGoToTheSeller(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 3})
	seller, other := start(t, options{dsn: dsn, strategy: "etcd"}), start(t, options{dsn: dsn, strategy: "etcd"})
	first := mustPlace(t, seller, buy("ann", "k", 1))
	second := mustPlace(t, other, buy("ben", "k", 2))
	if first.Order.Fence != second.Order.Fence || held(seller) != 1 || held(other) != 0 {
		t.Errorf("tokens %d and %d, locks held %v and %v; want one tenure of the first replica", first.Order.Fence, second.Order.Fence, held(seller), held(other))
	}
	again := mustPlace(t, other, buy("ben", "k", 2))
	if !again.Replayed || again.Order != second.Order {
		t.Errorf("the replay is %+v, the order was %+v", again, second.Order)
	}
	for want, r := range map[error]order.Request{order.ErrSoldOut: buy("cat", "k", 1), order.ErrKeyReused: buy("ben", "k", 1)} {
		if _, err := other.orders.Place(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if found, err := other.orders.Find(t.Context(), "ben", second.Order.ID); err != nil || found != second.Order {
		t.Errorf("found %+v, %v; want %+v", found, err, second.Order)
	}
	audit(t, dsn)
}

// A link ends with an order on it. The order is sent again with its key, to the same
// seller or the next one, and is made once.
func TestLinkThatEndsInEachState(t *testing.T) {
	t.Parallel()
	states := map[string]struct {
		step    order.Step // at which the link is cut; if empty, before the order is sent
		answers bool       // the answer is delayed until the link is cut
	}{
		"before the send":            {},
		"sent and not committed":     {step: order.BeforeCommit},
		"committed and not answered": {answers: true},
	}
	for name, state := range states {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 10})
			var link *sandboxtest.Link
			var armed atomic.Bool
			seller, link := overLink(t, options{dsn: dsn, strategy: "etcd", at: func(s order.Step) {
				if s == state.step && armed.CompareAndSwap(true, false) {
					link.Cut()
				}
			}})
			other := start(t, options{dsn: dsn, strategy: "etcd"})
			mustPlace(t, seller, buy("ann", "k", 1))
			mustPlace(t, other, buy("ben", "k", 1)) // opens the link
			armed.Store(true)
			switch {
			case state.answers:
				release := link.Hold()
				db := open(t, dsn)
				var waits sync.WaitGroup
				waits.Go(func() {
					sandboxtest.Eventually(t, "the order to exist", func() bool {
						var n int
						err := db.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM orders WHERE customer = 'cat'").Scan(&n)
						return err == nil && n == 1
					})
					link.Cut()
					release()
				})
				defer waits.Wait()
			case state.step == "":
				link.Cut()
			}
			placed := mustPlace(t, other, buy("cat", "k", 1))
			if placed.Replayed {
				t.Error("the answer to a single request is marked as a replay")
			}
			if found, err := other.orders.Find(t.Context(), "cat", placed.Order.ID); err != nil || found != placed.Order {
				t.Errorf("found %+v, %v; want %+v", found, err, placed.Order)
			}
			if got := audit(t, dsn).Reserved; got != 3 {
				t.Errorf("%d units reserved, want 3", got)
			}
		})
	}
}

// Replicas that reach etcd and MySQL, but not each other, take turns at the lock and
// refuse no order.
func TestReplicasThatCannotReachEachOtherTakeTurns(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 1000})
	var replicas [2]*replica
	for i := range replicas {
		var link *sandboxtest.Link
		replicas[i], link = overLink(t, options{dsn: dsn, strategy: "etcd"})
		link.Cut()
	}
	var buyers errgroup.Group
	for i := range 40 {
		buyers.Go(func() error {
			for n := range 10 {
				if _, err := replicas[i%2].orders.Place(t.Context(), buy(fmt.Sprint("customer-", i), fmt.Sprint(n), 1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := buyers.Wait(); err != nil {
		t.Error(err)
	}
	if got := audit(t, dsn).Reserved; got != 400 {
		t.Errorf("%d units reserved, want 400", got)
	}
}

// A replica with another secret cannot connect, and takes turns too.
func TestReplicaWithAnotherSecretTakesTurns(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	ours, other := start(t, options{dsn: dsn, strategy: "etcd"}), start(t, options{dsn: dsn, strategy: "etcd", secret: "another secret"})
	for i := range 3 {
		mustPlace(t, ours, buy("ann", fmt.Sprint(i), 1))
		mustPlace(t, other, buy("ben", fmt.Sprint(i), 1))
	}
	if got := audit(t, dsn).Reserved; got != 6 {
		t.Errorf("%d units reserved, want 6", got)
	}
}

// A seller that shuts down releases the lock. Orders from other replicas do not fail.
func TestDrainingSellerRefusesNoOrder(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 100_000})
	others := []*replica{start(t, options{dsn: dsn, strategy: "etcd"}), start(t, options{dsn: dsn, strategy: "etcd"})}
	seller, err := newReplica(options{dsn: dsn, etcd: servers.EtcdEndpoints(), strategy: "etcd", fence: strategy.FenceClaim})
	if err != nil {
		t.Fatal(err)
	}
	mustPlace(t, seller, buy("ann", "k", 1))
	done := make(chan struct{})
	var asked, sold atomic.Int64
	var buyers errgroup.Group
	for i := range 16 {
		buyers.Go(func() error {
			for {
				select {
				case <-done:
					return nil
				default:
				}
				if _, err := others[i%2].orders.Place(t.Context(), buy("ben", fmt.Sprint("k", asked.Add(1)), 1)); err != nil {
					return err
				}
				sold.Add(1)
			}
		})
	}
	sandboxtest.Eventually(t, "orders to be sold", func() bool { return sold.Load() > 200 })
	if held(seller) != 1 {
		t.Errorf("the first replica is not the seller")
	}
	if err := seller.close(t.Context()); err != nil {
		t.Error(err)
	}
	before := sold.Load()
	sandboxtest.Eventually(t, "orders to be sold elsewhere", func() bool { return sold.Load() > before+200 })
	close(done)
	if err := buyers.Wait(); err != nil {
		t.Error(err)
	}
	if got := audit(t, dsn).Reserved; got != sold.Load()+1 {
		t.Errorf("%d units reserved, but %d orders were made", got, sold.Load()+1)
	}
}

// Orders that are forwarded to a full desk are refused at once.
func TestForwardedOrdersAreRefusedByAFullDesk(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 100})
	stopped, release := make(chan struct{}), make(chan struct{})
	var once atomic.Int32
	seller := start(t, options{dsn: dsn, strategy: "etcd", desk: order.DeskConfig{Queue: 2}, at: func(s order.Step) {
		if s == order.BeforeCommit && once.Add(1) == 2 {
			close(stopped)
			<-release
		}
	}})
	other := start(t, options{dsn: dsn, strategy: "etcd"})
	mustPlace(t, seller, buy("ann", "k", 1))
	var buyers errgroup.Group
	buyers.Go(func() error { _, err := seller.orders.Place(t.Context(), buy("ann", "k2", 1)); return err })
	<-stopped
	var busy atomic.Int32
	for i := range 20 {
		buyers.Go(func() error {
			_, err := other.orders.Place(t.Context(), buy(fmt.Sprint("customer-", i), "k", 1))
			if errors.Is(err, order.ErrBusy) {
				busy.Add(1)
				return nil
			}
			return err
		})
	}
	sandboxtest.Eventually(t, "the other orders to be refused", func() bool { return busy.Load() == 18 })
	close(release)
	if err := buyers.Wait(); err != nil {
		t.Error(err)
	}
	if got := audit(t, dsn).Reserved; got != 4 {
		t.Errorf("%d units reserved, want 4", got)
	}
}
