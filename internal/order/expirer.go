package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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
	backlog  *backlog
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

	// expiryPage is how many due orders are read at once, and taken up of one SKU;
	// expiryBatch is how many of them end in a transaction: one takes some 20 ms, for
	// which a sale that is running waits.
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
	e.backlog, e.working, e.failed, e.finished = newBacklog(), map[string]bool{}, map[string]*holdOff{}, make(chan swept, expiryWorkers)
	defer func() { _ = e.workers.Wait() }() // each is bounded by ctx, and has told its outcome
	var mended, nextLook time.Time
	for ctx.Err() == nil && e.orders.cfg.Halted() == nil {
		if !time.Now().Before(nextLook) && e.backlog.size < backlogMost {
			wait := time.Duration(0)
			err := e.mend(ctx, &mended)
			if err == nil {
				wait, err = e.look(ctx)
			}
			if err != nil && ctx.Err() == nil {
				e.orders.cfg.Logger.Warn("expirer", "error", err)
				wait = takeOver
			}
			nextLook = time.Now().Add(wait)
		}
		e.start(ctx)
		wait := time.Until(nextLook)
		if e.backlog.size >= backlogMost {
			wait = expiryPoll
		}
		e.await(ctx, wait)
	}
}

// start begins to end orders of the backlog, as far as there is room.
func (e *Expirer) start(ctx context.Context) {
	for len(e.working) < expiryWorkers {
		sku, ids := e.backlog.next(e.working)
		if len(ids) == 0 {
			return
		}
		e.working[sku] = true
		e.workers.Go(func() error {
			e.finished <- swept{sku, e.orders.expire(ctx, sku, ids)} // there is room for each
			return nil
		})
	}
}

// look reads a page of what is due into the backlog, and says how long to wait
// before the next look.
func (e *Expirer) look(ctx context.Context) (wait time.Duration, err error) {
	db := e.orders.cfg.DB
	oldest, next, now, err := readDue(ctx, db)
	if err != nil {
		return 0, err
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

// await waits until a SKU is finished, or the time is over, and notes all that are
// finished.
func (e *Expirer) await(ctx context.Context, wait time.Duration) {
	over := time.NewTimer(wait)
	defer over.Stop()
	select {
	case s := <-e.finished:
		e.finish(ctx, s)
	case <-over.C:
	case <-ctx.Done():
	}
	for len(e.finished) > 0 {
		e.finish(ctx, <-e.finished)
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
	e.backlog.drop(s.sku)
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

// nextDue is two looks at the ends of an index.
const nextDue = "SELECT (SELECT MIN(expires_at) FROM orders FORCE INDEX (expiring) WHERE status = 'reserved'), " +
	"(SELECT MIN(expires_at) FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at > NOW(6)), NOW(6)"

// readDue reads when the oldest window of a reserved order ends, and when the
// next one does.
func readDue(ctx context.Context, db *stock.DB) (oldest, next sql.Null[time.Time], now time.Time, err error) {
	if err = db.SQL.QueryRowContext(ctx, nextDue).Scan(&oldest, &next, &now); err != nil {
		err = fmt.Errorf("read when orders are due: %w", err)
	}
	return oldest, next, now, err
}
