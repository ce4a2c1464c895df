package order_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// revocable is a lock whose grants a test ends. Nobody gets it while it is taken.
type revocable struct {
	taken atomic.Bool
	// tries are how often it was asked for, and unlocks how often a grant was given
	// back.
	tries, unlocks atomic.Int32
	grants         chan chan struct{} // what makes each grant lost when it is closed
}

func (r *revocable) TryLock(context.Context, string) (lock.Held, error) {
	r.tries.Add(1)
	if r.taken.Load() {
		return nil, lock.ErrHeld
	}
	lost := make(chan struct{})
	r.grants <- lost
	return &revocableHeld{r, lost}, nil
}

func (r *revocable) Lock(ctx context.Context, name string) (lock.Held, error) {
	return r.TryLock(ctx, name)
}

func (r *revocable) Close(context.Context) error { return nil }

type revocableHeld struct {
	*revocable
	lost chan struct{}
}

func (*revocableHeld) Token() lock.Token         { return 1 }
func (h *revocableHeld) Lost() <-chan struct{}   { return h.lost }
func (h *revocableHeld) Wanted() <-chan struct{} { return nil }

func (h *revocableHeld) Unlock(context.Context) error {
	h.unlocks.Add(1)
	return lock.ErrLost
}

// A sweeper that hears that its lease is lost ends no further order before it has
// the lease again.
func TestSweeperWithoutItsLeaseSweepsNoMore(t *testing.T) {
	t.Parallel()
	s := openShop(t, "conditional", stock.Stock{Units: 10}, time.Hour)
	sweeping := order.MetricsOf(s.at(0)).Sweeping
	leases := &revocable{grants: make(chan chan struct{}, 10)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); order.NewExpirer(s.at(0), leases).Run(ctx) }()
	stop := func() { cancel(); <-ended }
	defer stop()
	due := func(customer string) {
		s.mustBuy(t, 0, customer, "k", 1)
		execSQL(t, s.dsn, "UPDATE orders SET expires_at = NOW(6) WHERE status = 'reserved'")
	}
	lost := <-leases.grants
	due("ann")
	s.await(t, noneReserved)
	if got := value(sweeping); got != 1 {
		t.Errorf("the gauge says %v while it sweeps", got)
	}

	leases.taken.Store(true)
	close(lost)
	eventually(t, "the end of its sweeping", func() bool { return value(sweeping) == 0 && leases.unlocks.Load() == 1 })
	due("ben")
	tries := leases.tries.Load()
	eventually(t, "it to ask for the lease again", func() bool { return leases.tries.Load() > tries+1 })
	var left int
	if err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM orders WHERE status = 'reserved'").Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 1 {
		t.Errorf("%d orders are left, want the one that came due while another had the lease", left)
	}
	leases.taken.Store(false)
	s.await(t, noneReserved)
	stop()
	if n := leases.unlocks.Load(); n != 2 || value(sweeping) != 0 {
		t.Errorf("after its end it has given %d grants back of 2, and the gauge says %v", n, value(sweeping))
	}
	s.audit(t)
}

// SKUs with few orders each are swept at the same time: one by one, each would wait
// for its lock and its commit alone. They are not all swept at once either.
func TestSoManySKUsAreSweptAtOnce(t *testing.T) {
	t.Parallel()
	const atOnce = 16
	dsn := newDSN(t, stock.Stock{Units: 1})
	execSQL(t, dsn, `INSERT INTO stock (sku, name, price_cents, currency, units, available, created_at, updated_at, seq)
		SELECT CONCAT('many', seq), 'A thing', 1, 'EUR', 1, 0, NOW(6), NOW(6), 1 FROM seq_1_to_40`)
	execSQL(t, dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
		created_at, expires_at) SELECT UNHEX(MD5(seq)), CONCAT('many', seq), 'ann', seq, '', 1, 1, 'EUR', 'reserved', 0, 1, NOW(6), NOW(6) FROM seq_1_to_40`)
	locker := &crowd{Locker: processlock.New(), full: make(chan struct{})}
	r := &replica{db: open(t, dsn)}
	r.orders = order.New(order.Config{DB: r.db, Strategy: mustFind(t, "etcd"), Fence: strategy.FenceOff, Locker: locker,
		PaymentWindow: time.Hour, RequestTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	stop := expire(t, r, dsn, false)
	eventually(t, "sixteen SKUs to be swept at once", func() bool { return locker.asking.Load() == atOnce })
	close(locker.full)
	s := &shop{dsn: dsn, replicas: [2]*replica{r, r}}
	s.await(t, noneReserved)
	stop()
	if most := locker.most.Load(); most != atOnce {
		t.Errorf("%d SKUs were swept at once, want %d", most, atOnce)
	}
	if err := r.orders.Close(t.Context()); err != nil {
		t.Error(err)
	}
	s.audit(t)
}
