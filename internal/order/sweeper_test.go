package order_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// revocable is a lock whose grants a test can end. It is never granted while taken is set.
type revocable struct {
	taken atomic.Bool
	// tries counts requests, and unlocks counts releases.
	tries, unlocks atomic.Int32
	grants         chan chan struct{} // closing one makes its grant lost
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

func (*revocableHeld) Token() lock.Token            { return 1 }
func (h *revocableHeld) Lost() <-chan struct{}      { return h.lost }
func (h *revocableHeld) Contended() <-chan struct{} { return nil }

func (h *revocableHeld) Unlock(context.Context) error {
	h.unlocks.Add(1)
	return lock.ErrLost
}

// A sweeper that learns that its lease is lost ends no order before it has the lease
// again.
func TestSweeperStopsWithoutItsLease(t *testing.T) {
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
	sandboxtest.Eventually(t, "the sweep to end", func() bool { return value(sweeping) == 0 && leases.unlocks.Load() == 1 })
	due("ben")
	tries := leases.tries.Load()
	sandboxtest.Eventually(t, "another request for the lease", func() bool { return leases.tries.Load() > tries+1 })
	var left int
	if err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM orders WHERE status = 'reserved'").Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 1 {
		t.Errorf("%d orders are left, want one: it came due while another sweeper had the lease", left)
	}
	leases.taken.Store(false)
	s.await(t, noneReserved)
	stop()
	if n := leases.unlocks.Load(); n != 2 || value(sweeping) != 0 {
		t.Errorf("after the end: %d of 2 grants were released, and the gauge says %v", n, value(sweeping))
	}
	s.audit(t)
}

// SKUs with few orders each are swept at the same time, so that their locks and commits
// overlap, but only a bounded number of them.
func TestBoundedNumberOfSKUsIsSweptAtOnce(t *testing.T) {
	t.Parallel()
	const atOnce = 16
	dsn := newDSN(t, stock.Stock{Units: 1})
	execSQL(t, dsn, `INSERT INTO stock (sku, name, price_cents, currency, units, available, created_at, updated_at, seq)
		SELECT CONCAT('many', seq), 'A thing', 1, 'EUR', 1, 0, NOW(6), NOW(6), 1 FROM `+sandboxtest.Numbers(40)+` n`)
	execSQL(t, dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
		created_at, expires_at) SELECT UNHEX(LEFT(SHA2(seq, 256), 32)), CONCAT('many', seq), 'ann', seq, '', 1, 1, 'EUR', 'reserved', 0, 1, NOW(6), NOW(6) FROM `+sandboxtest.Numbers(40)+` n`)
	locker := &stuckLocker{Locker: processlock.New(), free: make(chan struct{})}
	r := &replica{db: open(t, dsn)}
	r.orders = order.New(order.Config{DB: r.db, Strategy: mustFind(t, "etcd"), Fence: strategy.FenceOff, Locker: locker,
		PaymentWindow: time.Hour, RequestTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	stop := expire(t, r, dsn, false)
	sandboxtest.Eventually(t, "sixteen SKUs to be swept at once", func() bool { return locker.asking.Load() == atOnce })
	close(locker.free)
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

// Each page of due orders starts after the last one, also among orders that came due at
// the same moment.
func TestDueOrdersAreReadOnce(t *testing.T) {
	t.Parallel()
	const due, page = 10_000, 500
	dsn := newDSN(t, stock.Stock{Units: 1})
	execSQL(t, dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
		created_at, expires_at) SELECT UNHEX(LEFT(SHA2(seq, 256), 32)), 'hot', 'ann', seq, '', 1, 1, 'EUR', 'reserved', 0, 1, NOW(6), NOW(6) FROM `+sandboxtest.Numbers(due)+` n`)
	db, err := stock.Open(dsn, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var found int
	rows := rowsRead(t, db, func() { found, err = order.FindDue(t.Context(), db, page) })
	if err != nil || found != due {
		t.Errorf("found %d orders, %v; want %d", found, err, due)
	}
	if most := due + due/10; rows > most {
		t.Errorf("%d rows were read for %d orders, want at most %d", rows, due, most)
	}
}

// While a SKU with many due orders waits for its lock, the due orders of other SKUs are
// found without reading all of its orders again.
func TestSweepDoesNotReadAHotSKUForEachOther(t *testing.T) {
	t.Parallel()
	const hot, others = 10_000, 8
	dsn := newDSN(t, stock.Stock{Units: 1})
	for _, query := range []string{
		`INSERT INTO stock (sku, name, price_cents, currency, units, available, created_at, updated_at, seq)
			SELECT IF(seq = 9, 'hot', CONCAT('other', seq)), 'A thing', 1, 'EUR', IF(seq = 9, 10000, 1), 0, NOW(6), NOW(6), 1 FROM ` + sandboxtest.Numbers(9) + ` n`,
		`INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq, created_at, expires_at)
			SELECT UNHEX(LEFT(SHA2(CONCAT('hot', seq), 256), 32)), 'hot', 'ann', CONCAT('hot', seq), '', 1, 1, 'EUR', 'reserved', 0, 1, NOW(6), NOW(6) FROM ` + sandboxtest.Numbers(10000) + ` n`,
	} {
		execSQL(t, dsn, query)
	}
	locker := &hotLock{Locker: processlock.New(), asked: make(chan struct{}), free: make(chan struct{})}
	r := &replica{db: open(t, dsn)}
	r.orders = order.New(order.Config{DB: r.db, Strategy: mustFind(t, "etcd"), Fence: strategy.FenceOff, Locker: locker,
		PaymentWindow: time.Hour, RequestTimeout: testPatience, Logger: slog.New(slog.DiscardHandler)})
	s := &shop{dsn: dsn, replicas: [2]*replica{r, r}}
	began := time.Now()
	stop := expire(t, r, dsn, false)
	<-locker.asked
	for i := range others {
		execSQL(t, dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
			created_at, expires_at) VALUES (UNHEX(LEFT(SHA2(?, 256), 32)), ?, 'ann', ?, '', 1, 1, 'EUR', 'reserved', 0, 1, NOW(6), NOW(6))`, i, fmt.Sprint("other", i+1), i)
		s.await(t, noneReserved+" AND sku <> 'hot'")
	}
	// All of them are read again from time to time.
	most := hot*(2+int(time.Since(began)/(5*time.Second))) + 1000*others
	if rows := poolReads(t, r.db); rows > most {
		t.Errorf("%d rows were read while %d orders came due in addition to %d, want at most %d", rows, others, hot, most)
	}
	close(locker.free)
	s.await(t, noneReserved)
	stop()
	if err := r.orders.Close(t.Context()); err != nil {
		t.Error(err)
	}
	s.audit(t)
}

// hotLock grants the lock of the SKU "hot" only after it is released.
type hotLock struct {
	lock.Locker
	once        sync.Once
	asked, free chan struct{}
}

func (l *hotLock) Lock(ctx context.Context, name string) (lock.Held, error) {
	if name == "hot" {
		l.once.Do(func() { close(l.asked) })
		select {
		case <-l.free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return l.Locker.Lock(ctx, name)
}

// poolReads counts the rows that all connections of a pool have read.
func poolReads(t *testing.T, db *stock.DB) (rows int) {
	t.Helper()
	for range db.SQL.Stats().OpenConnections {
		conn, err := db.SQL.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // after all connections were used
		var name string
		var n int
		if err := conn.QueryRowContext(t.Context(), "SHOW SESSION STATUS LIKE 'Handler_read_next'").Scan(&name, &n); err != nil {
			t.Fatal(err)
		}
		rows += n
	}
	return rows
}
