package order_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/backend"
	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// expire runs a replica's Expirer until stop, or the test's end. Unlocked, it sweeps like
// one that does not know that it has lost its lock.
func expire(t *testing.T, r *replica, dsn string, leases bool) (stop func()) {
	t.Helper()
	var l lock.Locker = processlock.New()
	if leases {
		var err error
		if l, err = backend.OpenLeases(backend.Config{DSN: dsn, Replica: "r", TTL: testTTL}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); order.NewExpirer(r.orders, l).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// await waits until a query returns true.
func (s *shop) await(t *testing.T, query string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	for done := false; !done; {
		err := s.replicas[0].db.SQL.QueryRowContext(ctx, "SELECT ("+query+") OR SLEEP(0.02)", args...).Scan(&done)
		if ctx.Err() != nil {
			t.Fatalf("waited %s in vain for %s %v", testPatience, query, args)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

const noneReserved = "SELECT COUNT(*) = 0 FROM orders WHERE status = 'reserved'"

// Two sweep at once, which must not matter.
func TestExpiryReturnsTheUnitsOnce(t *testing.T) {
	two := int32(2)
	forShops(t, stock.Stock{Units: 4, PerCustomerLimit: &two}, time.Second, func(t *testing.T, s *shop) {
		o := s.mustBuy(t, 0, "ann", "k", 2)
		s.mustBuy(t, 1, "ben", "k", 2)
		_, err := s.at(1).Place(t.Context(), buy("cay", "k", 1))
		mustBe(t, "buy what is sold out", err, order.ErrSoldOut)
		var stops []func()
		for _, r := range s.replicas {
			stops = append(stops, expire(t, r, s.dsn, false))
		}
		s.await(t, noneReserved)
		for i := range 2 {
			got, err := s.at(i).Find(t.Context(), "ann", o.ID)
			if err != nil || got.Status != order.Expired || got.ClosedAt == nil || got.ClosedAt.Before(got.ExpiresAt) {
				t.Errorf("got %+v, %v; want it expired after its window", got, err)
			}
			_, err = s.at(i).Pay(t.Context(), order.Payment{Customer: "ann", Order: o.ID, Reference: "p"})
			mustBe(t, "pay", err, order.ErrPaymentWindowOver)
			_, err = s.at(i).Cancel(t.Context(), "ann", o.ID)
			mustBe(t, "cancel", err, order.ErrExpired)
			again, err := s.at(i).Place(t.Context(), buy("ann", "k", 2))
			if err != nil || !again.Replayed || again.Order.ID != o.ID || again.Order.Status != order.Reserved {
				t.Errorf("replay: got %+v, %v; want the order as it was made", again, err)
			}
		}
		if s.replicas[0].units != nil {
			s.awaitUnits(t, 4)
		}
		for _, stop := range stops { // later orders must not expire
			stop()
		}
		s.mustBuy(t, 1, "ann", "k2", 2)
		if got := s.audit(t); got.Returned != 4 || got.Reserved+got.Available != 4 {
			t.Errorf("%+v; want 4 returned", got)
		}
	})
}

// awaitUnits waits until etcd has so many units available again.
func (s *shop) awaitUnits(t *testing.T, n int64) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprint(n, " units in etcd"), func() bool {
		got, err := s.replicas[0].units.Read(t.Context(), testSKU)
		if err != nil {
			t.Fatal(err)
		}
		return got.Available == n
	})
}

// Of a payment at the end of the window and two sweepers, one wins.
func TestPaymentAgainstExpiry(t *testing.T) {
	forShops(t, stock.Stock{Units: 60}, time.Second, func(t *testing.T, s *shop) {
		for _, r := range s.replicas {
			expire(t, r, s.dsn, false)
		}
		var paid, late atomic.Int64
		var group errgroup.Group
		for i := range 60 {
			group.Go(func() error {
				placed, err := s.at(i).Place(t.Context(), buy("ann", fmt.Sprint("k", i), 1))
				if err != nil {
					return err
				}
				// Around the window's end; our clock is close to the database's.
				time.Sleep(time.Until(placed.Order.ExpiresAt) + time.Duration(i-30)*time.Millisecond)
				_, err = s.at(i+1).Pay(t.Context(), order.Payment{Customer: "ann", Order: placed.Order.ID, Reference: fmt.Sprint("p", i)})
				switch {
				case err == nil:
					paid.Add(1)
				case errors.Is(err, order.ErrPaymentWindowOver):
					late.Add(1)
				default:
					return err
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		s.await(t, noneReserved)
		if s.replicas[0].units != nil {
			s.awaitUnits(t, 60-paid.Load())
		}
		t.Logf("%d paid, %d late", paid.Load(), late.Load())
		if got := s.audit(t); got.Paid != paid.Load() || got.Available != 60-paid.Load() {
			t.Errorf("%d paid, %d late: %+v", paid.Load(), late.Load(), got)
		}
		if got := s.late(t); int64(len(got)) != late.Load() {
			t.Errorf("%d references were stored, of %d late payments", len(got), late.Load())
		}
	})
}

// `go test -run TenThousand -v` prints the rate.
func TestTenThousandOrdersExpire(t *testing.T) {
	t.Parallel()
	const units = 10_000
	s := openShop(t, "etcd", stock.Stock{Units: units}, time.Hour)
	var group errgroup.Group
	for buyer := range 200 {
		group.Go(func() error {
			for i := range units / 200 {
				if _, err := s.at(buyer).Place(t.Context(), buy(fmt.Sprint("customer", buyer), fmt.Sprint("k", i), 1)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := s.audit(t); got.Reserved != units || got.Available != 0 {
		t.Fatalf("%+v; want all reserved", got)
	}
	execSQL(t, s.dsn, "UPDATE orders SET expires_at = NOW(6)")
	began := time.Now()
	for _, r := range s.replicas {
		expire(t, r, s.dsn, true)
	}
	s.await(t, noneReserved)
	took := time.Since(began)
	t.Logf("%d orders of one SKU expired in %s: %.0f per second", units, took, units/took.Seconds())
	if got := s.audit(t); got.Returned != units || got.Available != units {
		t.Errorf("%+v; want all returned", got)
	}
	// The rate depends on this: each transaction leaves its ID in the orders that it ends.
	var transactions int
	if err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT COUNT(DISTINCT returned_by) FROM orders").Scan(&transactions); err != nil {
		t.Fatal(err)
	}
	if transactions == 0 || transactions > units/100 {
		t.Errorf("the orders ended in %d transactions, want hundreds of orders in each", transactions)
	}
}

// Many SKUs with few orders each need one lock each.
func TestOrdersOfManySKUsExpire(t *testing.T) {
	t.Parallel()
	const skus = 1000
	s := openShop(t, "etcd", stock.Stock{Units: 1}, time.Hour)
	execSQL(t, s.dsn, `INSERT INTO stock (sku, name, price_cents, currency, units, available, created_at, updated_at, seq)
		SELECT CONCAT('many', seq), 'A thing', 1, 'EUR', 3, 0, NOW(6), NOW(6), 3 FROM `+sandboxtest.Numbers(1000)+` n`)
	execSQL(t, s.dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
		created_at, expires_at) SELECT UNHEX(LEFT(SHA2(CONCAT(a.seq, '-', b.seq), 256), 32)), CONCAT('many', a.seq), 'ann', CONCAT(a.seq, '-', b.seq), '',
		1, 1, 'EUR', 'reserved', 0, b.seq, NOW(6), NOW(6) FROM `+sandboxtest.Numbers(1000)+` a, `+sandboxtest.Numbers(3)+` b`)
	began := time.Now()
	for _, r := range s.replicas {
		expire(t, r, s.dsn, true)
	}
	s.await(t, noneReserved)
	took := time.Since(began)
	t.Logf("%d orders of %d SKUs expired in %s: %.0f per second", 3*skus, skus, took, 3*skus/took.Seconds())
	s.audit(t)
}

// A SKU whose row another client has locked delays only its own orders, even if they fill
// many pages of due orders.
func TestLockedSKUDoesNotDelayTheExpiryOfOthers(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 1}, time.Hour)
	db := s.replicas[0].db
	execSQL(t, s.dsn, `INSERT INTO stock (sku, name, price_cents, currency, units, available, created_at, updated_at, seq)
		VALUES ('locked', 'A thing', 1, 'EUR', 5000, 0, NOW(6), NOW(6), 1), ('free', 'A thing', 1, 'EUR', 10, 0, NOW(6), NOW(6), 1)`)
	const insert = `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
		created_at, expires_at) SELECT UNHEX(LEFT(SHA2(CONCAT(?, seq), 256), 32)), ?, 'ann', CONCAT(?, seq), '', 1, 1, 'EUR', 'reserved', 0, 1, NOW(6), `
	execSQL(t, s.dsn, insert+"NOW(6) - INTERVAL 1 MINUTE FROM "+sandboxtest.Numbers(5000)+" n", "locked", "locked", "locked")
	execSQL(t, s.dsn, insert+"NOW(6) FROM "+sandboxtest.Numbers(10)+" n", "free", "free", "free")
	tx, err := db.SQL.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), "UPDATE stock SET seq = seq + 1 WHERE sku = 'locked'"); err != nil {
		t.Fatal(err)
	}
	busy := make(chan struct{})
	go func() { // busy: the claim would kill an idle connection
		defer close(busy)
		_, _ = tx.ExecContext(t.Context(), "DO SLEEP(300)")
	}()
	expire(t, s.replicas[0], s.dsn, true)
	s.await(t, noneReserved+" AND sku = 'free'")
	lag := order.MetricsOf(s.at(0)).SweepLag
	sandboxtest.Eventually(t, "a lag of at least a minute", func() bool { return value(lag) >= 60 })
	select {
	case <-busy:
		t.Fatal("the row is no longer locked")
	default:
	}
	execSQL(t, s.dsn, fmt.Sprintf("KILL QUERY %d", sleeper(t, db.Name)))
	<-busy
	_ = tx.Rollback()
	s.await(t, noneReserved)
	sandboxtest.Eventually(t, "the lag to end", func() bool { return value(lag) == 0 })
	s.audit(t)
}

// sleeper finds the connection that runs SLEEP in a database.
func sleeper(t *testing.T, database string) (id int64) {
	t.Helper()
	for _, c := range connections(t, database) {
		if c.Info == "DO SLEEP(300)" {
			return c.ID
		}
	}
	t.Fatal("no connection sleeps")
	return 0
}

// One replica at a time sweeps. When it shuts down it releases the lease, and the next
// one gets it at its next try. When it dies, the lease has to run out first.
func TestExpiryIsTakenOver(t *testing.T) {
	t.Parallel()
	s := openShop(t, "etcd", stock.Stock{Units: 10}, time.Second)
	// The lease of a replica that has just died.
	execSQL(t, s.dsn, "INSERT INTO leases (name, owner, token, expires_at) VALUES ('#expiry', 'dead#1', 7, NOW(6) + INTERVAL 4 SECOND)")
	var leased time.Time
	if err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT expires_at FROM leases WHERE name = '#expiry'").Scan(&leased); err != nil {
		t.Fatal(err)
	}
	o := s.mustBuy(t, 0, "ann", "k", 1)
	stop := expire(t, s.replicas[0], s.dsn, true)
	s.await(t, noneReserved)
	found, err := s.at(0).Find(t.Context(), "ann", o.ID)
	if err != nil {
		t.Fatal(err)
	}
	if early := leased.Sub(*found.ClosedAt); early > 0 {
		t.Errorf("it expired orders %s before the other lease ended", early)
	}
	stop()
	var owner string
	if err := s.replicas[0].db.SQL.QueryRowContext(t.Context(), "SELECT owner FROM leases WHERE name = '#expiry'").Scan(&owner); err != nil || owner != "" {
		t.Errorf("after the shutdown, %q has the lease, error %v", owner, err)
	}
	expire(t, s.replicas[1], s.dsn, true)
	s.mustBuy(t, 0, "ben", "k", 1)
	s.await(t, noneReserved)
	s.audit(t)
}

// A halted replica releases the lock, and does not ask for it again.
func TestHaltedReplicaLeavesExpiryToOthers(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 10})
	var halted atomic.Bool
	first := start(t, options{dsn: dsn, strategy: "etcd", window: time.Second, halted: func() error {
		if halted.Load() {
			return order.ErrAdopted
		}
		return nil
	}})
	s := &shop{dsn: dsn, replicas: [2]*replica{first, start(t, options{dsn: dsn, strategy: "etcd", window: time.Second})}}
	expire(t, first, dsn, true)
	s.mustBuy(t, 0, "ann", "k", 1)
	s.await(t, noneReserved)
	halted.Store(true)
	s.mustBuy(t, 1, "ben", "k", 1)
	expire(t, s.replicas[1], dsn, true)
	s.await(t, noneReserved)
	if got := s.audit(t); got.Returned != 2 {
		t.Errorf("%+v; want 2 returned", got)
	}
}
