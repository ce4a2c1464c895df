package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

// Expirer ends reserved orders whose payment window is over, and gives their
// units back to the sale. Every replica runs one, and one of them at a time
// sweeps: it has a lock, which another takes over when its holder dies. Two that
// sweep at once, as after a pause of the holder, do no harm: an order ends once.
//
// Nobody may rely on it for what the window means: payment is refused past it,
// swept or not.
type Expirer struct {
	orders *Service
	lock   lock.Locker

	// Only Run's goroutine touches these.
	working  map[string]bool // SKUs whose orders are being ended
	failed   map[string]*holdOff
	finished chan swept
	workers  errgroup.Group
}

// holdOff keeps a SKU out of the sweep for a while: its row is locked, say.
type holdOff struct {
	until time.Time
	wait  time.Duration
}

// swept is what became of a SKU's due orders.
type swept struct {
	sku string
	err error
}

const (
	// expiryLock is what the sweeper holds. It cannot be a SKU.
	expiryLock = "#expiry"
	// takeOver is how often a replica that does not sweep asks for the lock. It
	// adds to the lock's lease until the work of a dead sweeper goes on.
	takeOver = time.Second

	// expiryPage is how many due orders are read at once, and expiryBatch how many
	// of one SKU end in a transaction: one takes some 20 ms, for which a sale that
	// is running waits.
	expiryPage  = 2000
	expiryBatch = 500
	// expiryWorkers are the SKUs that are swept at once: many SKUs with few orders
	// each wait for their locks and commits at the same time, as buyers do.
	expiryWorkers = 16

	// expiryPoll is the longest time between two looks, and expiryRest the
	// shortest while nothing is due: orders that come due one after the other end
	// together.
	expiryPoll = 500 * time.Millisecond
	expiryRest = 20 * time.Millisecond

	// failedWait is how long a SKU is left alone that could not be swept, doubled
	// up to failedMaxWait.
	failedWait    = 500 * time.Millisecond
	failedMaxWait = 10 * time.Second
	// failedMost is how many may fail on their own account. More have a reason in
	// common, which will pass for all of them.
	failedMost = 200

	// mendEvery is how often the stock in etcd, where it is kept there, is looked
	// through for units that a crash kept from returning.
	mendEvery = time.Minute
)

// NewExpirer makes an Expirer of s. The lock excludes other replicas; it is not
// closed here.
func NewExpirer(s *Service, l lock.Locker) *Expirer { return &Expirer{orders: s, lock: l} }

// Run sweeps whenever this replica has the lock, until ctx ends, and then gives
// the lock back. Trouble is logged, and tried again. A replica that is halted
// leaves the lock to those that may write.
func (e *Expirer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if e.orders.cfg.Halted() == nil {
			e.ask(ctx)
		}
		_ = sleep.For(ctx, takeOver)
	}
}

// ask sweeps if the lock is to be had, for as long as it is.
func (e *Expirer) ask(ctx context.Context) {
	log := e.orders.cfg.Logger
	held, err := e.lock.TryLock(ctx, expiryLock)
	switch {
	case err == nil:
		log.Info("this replica expires orders")
		e.hold(ctx, held)
	case !errors.Is(err, lock.ErrHeld) && ctx.Err() == nil:
		log.Warn("expirer", "error", fmt.Errorf("lock: %w", err))
	}
}

// hold sweeps for as long as the lock lasts.
func (e *Expirer) hold(ctx context.Context, held lock.Held) {
	m := e.orders.cfg.Metrics
	m.Sweeping.Set(1)
	defer func() { m.Sweeping.Set(0); m.SweepLag.Set(0) }()
	sweeping, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-held.Lost():
			stop()
		case <-sweeping.Done():
		}
	}()
	e.sweep(sweeping)
	stop()
	<-watched
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	if err := held.Unlock(undo); err != nil {
		e.orders.cfg.Logger.Warn("expirer", "error", fmt.Errorf("unlock: %w", err))
	}
}

// sweep ends orders as they come due, until ctx ends or the replica is halted.
// SKUs are swept side by side: one whose row or lock is not to be had holds up its
// own orders alone.
func (e *Expirer) sweep(ctx context.Context) {
	e.working, e.failed, e.finished = map[string]bool{}, map[string]*holdOff{}, make(chan swept, expiryWorkers)
	defer func() { _ = e.workers.Wait() }() // each is bounded by ctx, and has told its outcome
	var due []dueOfSKU
	var mended time.Time
	for ctx.Err() == nil && e.orders.cfg.Halted() == nil {
		due = e.start(ctx, due)
		if len(due) > 0 {
			e.await(ctx) // until there is room for the next
			continue
		}
		wait := time.Duration(0)
		err := e.mend(ctx, &mended)
		if err == nil {
			due, wait, err = e.look(ctx)
		}
		if err != nil && ctx.Err() == nil {
			e.orders.cfg.Logger.Warn("expirer", "error", err)
			wait = takeOver
		}
		_ = sleep.For(ctx, wait)
		e.collect(ctx)
	}
}

// start begins to end due orders, and returns those for which there is no room.
func (e *Expirer) start(ctx context.Context, due []dueOfSKU) (left []dueOfSKU) {
	for len(due) > 0 && len(e.working) < expiryWorkers {
		d := due[0]
		due = due[1:]
		e.working[d.sku] = true
		e.workers.Go(func() error {
			e.finished <- swept{d.sku, e.orders.expire(ctx, d.sku, d.ids)} // there is room for each
			return nil
		})
	}
	return due
}

// look reads what is due, of SKUs that are not being swept; where that is
// nothing, it says when to look again.
func (e *Expirer) look(ctx context.Context) (due []dueOfSKU, wait time.Duration, err error) {
	db := e.orders.cfg.DB
	oldest, next, now, err := readDue(ctx, db)
	if err != nil {
		return nil, 0, err
	}
	lag := time.Duration(0)
	if oldest.Valid {
		lag = max(0, now.Sub(oldest.V))
	}
	e.orders.cfg.Metrics.SweepLag.Set(lag.Seconds())
	if oldest.Valid && !now.Before(oldest.V) {
		if due, err = findDue(ctx, db, e.excluded(), expiryPage); len(due) > 0 || err != nil {
			return due, 0, err
		}
	}
	wait = expiryPoll
	if len(e.working) > 0 {
		wait = 0 // they may have more
	}
	if next.Valid {
		wait = min(wait, next.V.Sub(now))
	}
	return nil, max(wait, expiryRest), nil
}

// mend looks through the stock in etcd from time to time.
func (e *Expirer) mend(ctx context.Context, mended *time.Time) error {
	if time.Since(*mended) < mendEvery {
		return nil
	}
	*mended = time.Now()
	if err := e.orders.cfg.mendUnits(ctx); err != nil {
		return fmt.Errorf("mend the stock in etcd: %w", err)
	}
	return nil
}

// excluded are the SKUs that are not to be swept now.
func (e *Expirer) excluded() []string {
	var skus []string
	for sku := range e.working {
		skus = append(skus, sku)
	}
	for sku, f := range e.failed {
		if !e.working[sku] && time.Now().Before(f.until) {
			skus = append(skus, sku)
		}
	}
	return skus
}

// await waits until a SKU is finished.
func (e *Expirer) await(ctx context.Context) {
	select {
	case s := <-e.finished:
		e.finish(ctx, s)
	case <-ctx.Done():
	}
}

// collect notes what is finished, without waiting.
func (e *Expirer) collect(ctx context.Context) {
	for {
		select {
		case s := <-e.finished:
			e.finish(ctx, s)
		default:
			return
		}
	}
}

// finish notes what became of a SKU. One that failed is left alone for a while.
func (e *Expirer) finish(ctx context.Context, s swept) {
	delete(e.working, s.sku)
	if s.err == nil || ctx.Err() != nil {
		delete(e.failed, s.sku)
		return
	}
	e.orders.cfg.Logger.Warn("expirer", "sku", s.sku, "error", s.err)
	f := e.failed[s.sku]
	if f == nil {
		f = &holdOff{}
		e.failed[s.sku] = f
	}
	f.wait = min(max(2*f.wait, failedWait), failedMaxWait)
	f.until = time.Now().Add(f.wait)
	if len(e.failed) > failedMost {
		clear(e.failed)
		_ = sleep.For(ctx, failedMaxWait)
	}
}

// expire ends those of a SKU's orders that are due and still reserved.
func (s *Service) expire(ctx context.Context, sku string, ids []ID) error {
	for len(ids) > 0 {
		batch := ids[:min(expiryBatch, len(ids))]
		ids = ids[len(batch):]
		err := s.seller.alter(ctx, sku, change{write: func(ctx context.Context) error {
			ended, err := returnUnits(ctx, s.cfg.DB, returning{sku: sku, to: Expired, ids: batch})
			s.cfg.Metrics.Expired.Add(float64(ended))
			return err
		}})
		if err != nil {
			return err
		}
		if err := s.cfg.returnEnded(ctx, sku, batch); err != nil {
			return err
		}
	}
	return nil
}

// dueOrders are plain reads, which lock nothing, of the index that has the
// reserved orders by the end of their windows.
const (
	dueOrders = "SELECT id, sku FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at <= NOW(6)"
	nextDue   = "SELECT (SELECT MIN(expires_at) FROM orders FORCE INDEX (expiring) WHERE status = 'reserved'), " +
		"(SELECT MIN(expires_at) FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at > NOW(6)), NOW(6)"
)

// dueOfSKU are due orders of one SKU.
type dueOfSKU struct {
	sku string
	ids []ID
}

// findDue reads up to limit due orders, the oldest first, but for those of some
// SKUs.
func findDue(ctx context.Context, db *stock.DB, except []string, limit int) ([]dueOfSKU, error) {
	query, args := dueOrders, make([]any, 0, len(except)+1)
	if len(except) > 0 {
		query += " AND sku NOT IN (?" + strings.Repeat(", ?", len(except)-1) + ")"
		for _, sku := range except {
			args = append(args, []byte(sku))
		}
	}
	rows, err := db.SQL.QueryContext(ctx, query+" ORDER BY expires_at LIMIT ?", append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("find due orders: %w", err)
	}
	defer rows.Close()
	var due []dueOfSKU
	at := map[string]int{}
	for rows.Next() {
		var id []byte
		var sku string
		if err := rows.Scan(&id, &sku); err != nil {
			return nil, fmt.Errorf("find due orders: %w", err)
		}
		if _, ok := at[sku]; !ok {
			at[sku] = len(due)
			due = append(due, dueOfSKU{sku: sku})
		}
		d := &due[at[sku]]
		d.ids = append(d.ids, ID(id))
	}
	return due, rows.Err()
}

// readDue reads when the oldest window of a reserved order ends, and when the
// next one does.
func readDue(ctx context.Context, db *stock.DB) (oldest, next sql.Null[time.Time], now time.Time, err error) {
	if err = db.SQL.QueryRowContext(ctx, nextDue).Scan(&oldest, &next, &now); err != nil {
		err = fmt.Errorf("read when orders are due: %w", err)
	}
	return oldest, next, now, err
}
