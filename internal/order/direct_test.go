package order_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/lock/etcdlock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// eachUnderItsToken is a strategy that takes a fenced lock for each order.
var eachUnderItsToken = strategy.Strategy{Name: "each", Lock: strategy.Etcd, Write: strategy.ReadThenWrite, Token: true, Replicas: -1}

// newEach starts a replica of eachUnderItsToken. The returned function ends its lease.
func newEach(t *testing.T, dsn string, fence strategy.Fence, at func(order.Step)) (service *order.Service, revoke func()) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: servers.EtcdEndpoints(), DialTimeout: testTimeout, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	db := open(t, dsn)
	prefix := "flashsale/" + db.Name + "/lock/"
	locker, err := etcdlock.New(etcdlock.Config{Client: client, Prefix: prefix, TTL: longTTL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		_ = locker.Close(ctx) // it reports a lost lease
		_ = client.Close()
	})
	service = order.New(order.Config{DB: db, Strategy: eachUnderItsToken, Fence: fence, Locker: locker,
		PaymentWindow: time.Minute, RequestTimeout: testTimeout, At: at, Logger: slog.New(slog.DiscardHandler)})
	return service, func() {
		answer, err := client.Get(t.Context(), prefix, clientv3.WithPrefix())
		if err != nil || len(answer.Kvs) == 0 {
			t.Fatalf("the lock has no holder: %v", err)
		}
		if _, err := client.Revoke(t.Context(), clientv3.LeaseID(answer.Kvs[0].Lease)); err != nil {
			t.Fatal(err)
		}
	}
}

// gate stops one order at a step until it is released.
type gate struct{ reached, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}), make(chan struct{})} }

func (g *gate) at() func(order.Step) {
	var used atomic.Bool
	return func(s order.Step) {
		if s == order.BeforeWrite && !used.Swap(true) {
			close(g.reached)
			<-g.open
		}
	}
}

// A holder of one order's lock stops between its read and its write. It continues after,
// or while, another one sells the last unit.
func TestFenceOfASingleOrder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fence strategy.Fence
		// amid: the stale write comes between the successor's read and its write.
		amid     bool
		oversold int64
	}{
		{strategy.FenceOff, false, 1},
		{strategy.FenceWrite, false, 0},
		{strategy.FenceClaim, false, 0},
		{strategy.FenceOff, true, 1},
		{strategy.FenceWrite, true, 1},
		{strategy.FenceClaim, true, 0},
	} {
		t.Run(fmt.Sprintf("%s, amid %v", test.fence, test.amid), func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 1})
			stale, fresh := newGate(), newGate()
			first, revoke := newEach(t, dsn, test.fence, stale.at())
			second, _ := newEach(t, dsn, test.fence, fresh.at())
			var group errgroup.Group
			place := func(at *order.Service, customer string) func() error {
				return func() error {
					_, err := at.Place(t.Context(), buy(customer, "k", 1))
					if err != nil && !errors.Is(err, order.ErrSoldOut) {
						return fmt.Errorf("%s: %w", customer, err)
					}
					return nil
				}
			}
			done := make(chan struct{})
			group.Go(func() error { defer close(done); return place(first, "ann")() })
			sandboxtest.Await(t, stale.reached, "the first order to read")
			revoke()
			if test.amid {
				group.Go(place(second, "ben"))
				sandboxtest.Await(t, fresh.reached, "the second order to read")
				close(stale.open)
				if test.fence != strategy.FenceClaim { // a refused order waits for the lock
					<-done
				}
				close(fresh.open)
			} else {
				close(fresh.open)
				if err := place(second, "ben")(); err != nil {
					t.Error(err)
				}
				close(stale.open)
			}
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
			fenced := value(order.MetricsOf(first).Fenced) + value(order.MetricsOf(second).Fenced)
			if (fenced > 0) != (test.oversold == 0) {
				t.Errorf("counted %v refusals by the fence", fenced)
			}
			report, err := stock.Audit(t.Context(), open(t, dsn))
			if err != nil {
				t.Fatal(err)
			}
			if got := report.SKUs[0].Oversold; got != test.oversold || report.OK != (test.oversold == 0) {
				t.Errorf("%d units oversold, want %d; violations %+v", got, test.oversold, report.Violations)
			}
		})
	}
}

// Orders under a claimed token sell exactly once on two replicas, also while the SKU is
// changed, and keep the per-customer limit.
func TestFencedOrdersAreExact(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 20, PerCustomerLimit: new(int32(4))})
	a, _ := newEach(t, dsn, strategy.FenceClaim, nil)
	b, _ := newEach(t, dsn, strategy.FenceClaim, nil)
	var group errgroup.Group
	var made, limited atomic.Int32
	for i := range 40 {
		group.Go(func() error {
			// Eight customers order five times each: once too often.
			_, err := []*order.Service{a, b}[i%2].Place(t.Context(), buy(fmt.Sprint("customer-", i%8), fmt.Sprint(i), 1))
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, order.ErrCustomerLimit):
				limited.Add(1)
			case !errors.Is(err, order.ErrSoldOut):
				return err
			}
			return nil
		})
	}
	group.Go(func() error { change(t, a, stock.Stock{PerCustomerLimit: new(int32(4))}); return nil })
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if made.Load() != 20 || audit(t, dsn).Reserved != 20 {
		t.Errorf("%d orders made, %d refused for the limit; want 20 made", made.Load(), limited.Load())
	}
}

// lostOnce is a lock whose first grant is lost at once.
type lostOnce struct {
	lock.Locker
	grants atomic.Int32
}

type lostHeld struct{ lock.Held }

func (lostHeld) Lost() <-chan struct{} {
	gone := make(chan struct{})
	close(gone)
	return gone
}

func (l *lostOnce) Lock(ctx context.Context, name string) (lock.Held, error) {
	held, err := l.Locker.Lock(ctx, name)
	if err == nil && l.grants.Add(1) == 1 {
		return lostHeld{held}, nil
	}
	return held, err
}

// A holder that learns in time that its lock is lost writes nothing under it.
func TestOrderIsRetriedAfterItsLockIsLost(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 5})
	row, err := strategy.Find("process")
	if err != nil {
		t.Fatal(err)
	}
	writes, locker := 0, &lostOnce{Locker: processlock.New()}
	service := order.New(order.Config{DB: open(t, dsn), Strategy: row, Fence: strategy.FenceOff, Locker: locker,
		PaymentWindow: time.Minute, RequestTimeout: testTimeout, Logger: slog.New(slog.DiscardHandler),
		At: func(s order.Step) {
			if s == order.BeforeWrite {
				writes++
			}
		}})
	if _, err := service.Place(t.Context(), buy("ann", "k", 1)); err != nil {
		t.Fatal(err)
	}
	if writes != 1 || locker.grants.Load() != 2 || audit(t, dsn).Reserved != 1 {
		t.Errorf("%d writes under %d grants, want one write under the second grant", writes, locker.grants.Load())
	}
}

// A strategy that does not wait for its lock refuses the order as busy.
func TestHeldLockIsBusy(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 5})
	locker := processlock.New()
	service := order.New(order.Config{DB: open(t, dsn), Strategy: strategy.Strategy{Write: strategy.ReadThenWrite, Try: true},
		Fence: strategy.FenceOff, Locker: locker, PaymentWindow: time.Minute, RequestTimeout: testTimeout, Logger: slog.New(slog.DiscardHandler)})
	held, err := locker.Lock(t.Context(), testSKU)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Place(t.Context(), buy("ann", "k", 1)); !errors.Is(err, order.ErrBusy) {
		t.Errorf("got %v, want %v", err, order.ErrBusy)
	}
	if err := held.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := service.Place(t.Context(), buy("ann", "k", 1)); err != nil {
		t.Error(err)
	}
}

// stuckLocker counts concurrent requests for a lock. It grants none before free is closed.
type stuckLocker struct {
	lock.Locker
	asking, most atomic.Int32
	free         chan struct{}
}

func (c *stuckLocker) Lock(ctx context.Context, name string) (lock.Held, error) {
	now := c.asking.Add(1)
	defer c.asking.Add(-1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	select {
	case <-c.free:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return c.Locker.Lock(ctx, name)
}

// Most orders wait in the replica, not at the lock server.
func TestFewOrdersAskTheLockServerAtOnce(t *testing.T) {
	t.Parallel()
	const orders, atOnce = 40, 8
	dsn := newDSN(t, stock.Stock{Units: orders})
	row, err := strategy.Find("process")
	if err != nil {
		t.Fatal(err)
	}
	locker := &stuckLocker{Locker: processlock.New(), free: make(chan struct{})}
	service := order.New(order.Config{DB: open(t, dsn), Strategy: row, Fence: strategy.FenceOff, Locker: locker,
		PaymentWindow: time.Minute, RequestTimeout: testTimeout, Logger: slog.New(slog.DiscardHandler)})
	var group errgroup.Group
	for i := range orders {
		group.Go(func() error {
			_, err := service.Place(t.Context(), buy(fmt.Sprint("customer-", i), "k", 1))
			return err
		})
	}
	sandboxtest.Eventually(t, "concurrent requests for the lock", func() bool { return locker.asking.Load() >= atOnce })
	close(locker.free)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if most := locker.most.Load(); most != atOnce || audit(t, dsn).Reserved != orders {
		t.Errorf("%d asked at once, want %d", most, atOnce)
	}
}
