package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

// Expirer ends reserved orders whose payment window is over, and returns their units to
// the sale. Every replica runs one, and a lock lets one of them sweep at a time. Two
// that sweep at once, as after a pause of the holder, do no harm: an order ends once.
// Payments are refused past the window, whether or not the order was swept.
type Expirer struct {
	orders *Service
	lock   lock.Locker

	// Only Run's goroutine uses these.
	backlog  *backlog
	working  map[string]bool // SKUs whose orders are being ended
	failed   map[string]*holdOff
	finished chan swept
	workers  errgroup.Group
}

// holdOff keeps a failed SKU out of the sweep for a while.
type holdOff struct {
	until time.Time
	wait  time.Duration
}

type swept struct {
	sku string
	err error
}

const (
	expiryLock = "#expiry" // the name of the sweeper's lock. It is not a valid SKU.
	// expiryRetry is how often the other replicas ask for the lock. After the death of
	// a sweeper the next one starts within the lock's lease plus this time.
	expiryRetry = time.Second

	expiryPage = 2000 // due orders that are read at once, and those that a worker takes
	// expiryBatch is how many orders end in one transaction. It takes about 20 ms, for
	// which a running sale of the SKU waits.
	expiryBatch   = 500
	expiryWorkers = 16 // the SKUs that are swept at once: their locks and commits overlap

	// expiryPoll is the longest time between two looks at the due orders, and expiryRest
	// the shortest while nothing is due.
	expiryPoll = 500 * time.Millisecond
	expiryRest = 20 * time.Millisecond

	// failedWait is how long a SKU is left alone after a failure. It doubles up to
	// failedMaxWait.
	failedWait    = 500 * time.Millisecond
	failedMaxWait = 10 * time.Second
	// If more than maxFailed SKUs fail, they probably have a common cause: the Expirer
	// pauses, and then tries all of them again.
	maxFailed = 200

	// repairEvery is how often the unitStore is searched for units that a crash kept
	// from returning.
	repairEvery = time.Minute
)

// NewExpirer makes an Expirer of s. l excludes other replicas; the Expirer does not
// close it.
func NewExpirer(s *Service, l lock.Locker) *Expirer { return &Expirer{orders: s, lock: l} }

// Run sweeps while this replica has the lock, until ctx ends. Then it releases the
// lock. It logs failures and retries. A halted replica leaves the lock to others.
func (e *Expirer) Run(ctx context.Context) {
	log := e.orders.cfg.Logger
	for ; ctx.Err() == nil; _ = sleep.For(ctx, expiryRetry) {
		if e.orders.cfg.Halted() != nil {
			continue
		}
		held, err := e.lock.TryLock(ctx, expiryLock)
		switch {
		case err == nil:
			log.Info("this replica expires orders")
			e.hold(ctx, held)
		case !errors.Is(err, lock.ErrHeld) && ctx.Err() == nil:
			log.Warn("expirer: lock failed", "error", err)
		}
	}
}

func (e *Expirer) hold(ctx context.Context, held lock.Held) {
	m := e.orders.cfg.Metrics
	m.Sweeping.Set(1)
	defer func() { m.Sweeping.Set(0); m.SweepLag.Set(0) }()
	sweeping, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		defer stop()
		select {
		case <-held.Lost():
		case <-sweeping.Done():
		}
	})
	e.sweep(sweeping)
	stop()
	watch.Wait()
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	if err := held.Unlock(undo); err != nil {
		e.orders.cfg.Logger.Warn("expirer: unlock failed", "error", err)
	}
}

// sweep ends orders as they come due, until ctx ends or the replica is halted. It
// sweeps several SKUs at once, so that a locked one delays only its own orders.
func (e *Expirer) sweep(ctx context.Context) {
	e.backlog, e.working, e.failed, e.finished = newBacklog(), map[string]bool{}, map[string]*holdOff{}, make(chan swept, expiryWorkers)
	defer func() { _ = e.workers.Wait() }() // bounded by ctx; each has reported its outcome
	var repaired, nextLook time.Time
	for ctx.Err() == nil && e.orders.cfg.Halted() == nil {
		if !time.Now().Before(nextLook) && e.backlog.size < maxBacklog {
			wait, err := time.Duration(0), error(nil)
			if time.Since(repaired) >= repairEvery {
				repaired = time.Now()
				err = e.orders.units.repair(ctx)
			}
			if err == nil {
				wait, err = e.look(ctx)
			}
			if err != nil && ctx.Err() == nil {
				e.orders.cfg.Logger.Warn("expirer failed; retrying", "error", err)
				wait = expiryRetry
			}
			nextLook = time.Now().Add(wait)
		}
		e.start(ctx)
		wait := time.Until(nextLook)
		if e.backlog.size >= maxBacklog {
			wait = expiryPoll
		}
		e.await(ctx, wait)
	}
}

func (e *Expirer) start(ctx context.Context) {
	for len(e.working) < expiryWorkers {
		sku, ids := e.backlog.next(e.working)
		if len(ids) == 0 {
			return
		}
		e.working[sku] = true
		e.workers.Go(func() error {
			e.finished <- swept{sku, e.orders.expire(ctx, sku, ids)} // the buffer has a place for each
			return nil
		})
	}
}

// look reads a page of due orders into the backlog, and returns how long to wait before
// the next look.
func (e *Expirer) look(ctx context.Context) (wait time.Duration, err error) {
	db := e.orders.cfg.DB
	var oldest, next sql.Null[time.Time] // ends of payment windows of reserved orders
	var now time.Time
	if err := db.SQL.QueryRowContext(ctx, nextDue).Scan(&oldest, &next, &now); err != nil {
		return 0, fmt.Errorf("read when orders are due: %w", err)
	}
	lag := time.Duration(0)
	if oldest.Valid {
		lag = max(0, now.Sub(oldest.V))
	}
	e.orders.cfg.Metrics.SweepLag.Set(lag.Seconds())
	if oldest.Valid && !now.Before(oldest.V) {
		if e.backlog.old(e.failed) {
			e.backlog = newBacklog()
		}
		due, err := findDue(ctx, db, e.backlog.after, expiryPage)
		for _, d := range due {
			e.backlog.add(d, e.failed)
		}
		if len(due) == expiryPage || err != nil {
			return 0, err
		}
	}
	wait = expiryPoll
	if next.Valid {
		wait = min(wait, next.V.Sub(now))
	}
	return max(wait, expiryRest), nil
}

// await waits until a worker has finished or the time is over, and then handles all
// finished ones.
func (e *Expirer) await(ctx context.Context, wait time.Duration) {
	select {
	case s := <-e.finished:
		e.finish(ctx, s)
	case <-time.After(wait):
	case <-ctx.Done():
	}
	for len(e.finished) > 0 {
		e.finish(ctx, <-e.finished)
	}
}

// finish handles a worker's outcome. A SKU that failed is left alone for a while.
func (e *Expirer) finish(ctx context.Context, s swept) {
	delete(e.working, s.sku)
	if s.err == nil || ctx.Err() != nil {
		delete(e.failed, s.sku)
		return
	}
	e.orders.cfg.Logger.Warn("expirer failed; retrying", "sku", s.sku, "error", s.err)
	e.backlog.drop(s.sku)
	f := e.failed[s.sku]
	if f == nil {
		f = &holdOff{}
		e.failed[s.sku] = f
	}
	f.wait = min(max(2*f.wait, failedWait), failedMaxWait)
	f.until = time.Now().Add(f.wait)
	if len(e.failed) > maxFailed {
		clear(e.failed)
		_ = sleep.For(ctx, failedMaxWait)
	}
}

func (s *Service) expire(ctx context.Context, sku string, ids []ID) error {
	for batch := range slices.Chunk(ids, expiryBatch) {
		err := s.seller.alter(ctx, sku, change{write: func(ctx context.Context) error {
			ended, err := returnUnits(ctx, s.cfg.database, sku, Expired, batch)
			s.cfg.Metrics.Expired.Add(float64(ended))
			return err
		}})
		if err != nil {
			return err
		}
		if err := s.units.giveBack(ctx, sku, batch); err != nil {
			return err
		}
	}
	return nil
}

const (
	// nextDue reads the oldest end of a window, and the next one.
	nextDue = "SELECT (SELECT MIN(expires_at) FROM orders FORCE INDEX (expiring) WHERE status = 'reserved'), " +
		"(SELECT MIN(expires_at) FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at > NOW(6)), NOW(6)"
	// dueOrders reads only an index, and locks nothing. With the cursor, orders that are
	// still being ended are not read again.
	dueOrders = "SELECT id, sku, expires_at FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at <= NOW(6) " +
		"AND (expires_at > ? OR expires_at = ? AND id > ?) ORDER BY expires_at, id LIMIT ?"

	// readAgain is how long the cursor advances before reading starts at the oldest due
	// order again, because one may have appeared before the cursor, for example after a
	// step of the database's clock. If some were passed over, it is passedOverAgain.
	readAgain       = 10 * time.Second
	passedOverAgain = time.Second
	// The bounds of a backlog. The Expirer ends about 20,000 orders a second.
	maxBacklog   = 100_000
	backlogOfSKU = 20_000
)

// dueOrder is an order whose window is over. The zero value sorts before all of them.
type dueOrder struct {
	id  ID
	sku string
	at  time.Time
}

func findDue(ctx context.Context, db *stock.DB, after dueOrder, limit int) (due []dueOrder, err error) {
	if after.at.IsZero() {
		after.at = epoch
	}
	due, err = stock.Query(ctx, db.SQL, func(d *dueOrder) []any { return []any{&d.id, &d.sku, &d.at} },
		dueOrders, after.at, after.at, after.id[:], limit)
	if err != nil {
		return nil, fmt.Errorf("find due orders: %w", err)
	}
	return due, nil
}

// backlog holds the due orders that were read and that no worker has taken yet. Reading
// continues after the last one, and starts over from time to time.
type backlog struct {
	began      time.Time
	after      dueOrder
	passedOver bool // set if orders were skipped because there are too many of their SKU

	ids  map[string][]ID
	skus []string // of ids
	size int      // of all ids
}

func newBacklog() *backlog { return &backlog{began: time.Now(), ids: map[string][]ID{}} }

// old reports whether to read from the oldest order again.
func (b *backlog) old(failed map[string]*holdOff) bool {
	age := time.Since(b.began)
	if age >= readAgain || age < passedOverAgain || b.size > 0 {
		return age >= readAgain
	}
	again := b.passedOver
	for _, f := range failed {
		again = again || f.until.After(b.began) && time.Now().After(f.until)
	}
	return again
}

func (b *backlog) add(d dueOrder, failed map[string]*holdOff) {
	b.after = d
	if f := failed[d.sku]; f != nil && time.Now().Before(f.until) {
		return
	}
	ids, ok := b.ids[d.sku]
	if len(ids) >= backlogOfSKU {
		b.passedOver = true
		return
	}
	if !ok {
		b.skus = append(b.skus, d.sku)
	}
	b.ids[d.sku] = append(ids, d.id)
	b.size++
}

// next takes orders of a SKU that no worker is sweeping, if there is one.
func (b *backlog) next(working map[string]bool) (sku string, ids []ID) {
	for i, sku := range b.skus {
		if working[sku] {
			continue
		}
		// The order of SKUs matters little: those before this one are being swept.
		b.skus[i], b.skus = b.skus[0], b.skus[1:]
		all := b.ids[sku]
		ids := all[:min(len(all), expiryPage)]
		b.size -= len(ids)
		if rest := all[len(ids):]; len(rest) > 0 {
			b.ids[sku], b.skus = rest, append(b.skus, sku)
		} else {
			delete(b.ids, sku)
		}
		return sku, ids
	}
	return "", nil
}

func (b *backlog) drop(sku string) {
	b.size -= len(b.ids[sku])
	delete(b.ids, sku)
	b.skus = slices.DeleteFunc(b.skus, func(s string) bool { return s == sku })
}
