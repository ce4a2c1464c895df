package order

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// tenure is the time for which a desk holds its SKU's lock, over many batches. It
// keeps a copy of the stock row in memory. Whenever the copy differs from the row in
// MySQL, the fence and seq stop the write.
type tenure struct {
	cfg   *Config
	desk  *desk
	held  lock.Held
	claim stock.Claim
	row   stock.Row
	asOf  time.Time          // when row was read, by our monotonic clock
	holds map[string]holding // of the customers that were looked up
	era   *era               // limits what memory returns; replaced if the row goes back in time
	began time.Time          // when the claim succeeded; the quantum counts from here
	batch []*ticket          // in hand: taken off the queue, and not answered yet
}

const (
	claimTimeout  = 2500 * time.Millisecond // leaves time for a second try after a lock wait of one second
	commitTimeout = 2 * time.Second         // bounds a transaction, whose outcome has to be resolved after it
	// resolveTimeout bounds the resolving of an unknown commit. With the commit it stays
	// within the usual request timeout: a replica without MySQL must not keep the lock.
	resolveTimeout = 2500 * time.Millisecond
	// batchAttempts bounds how often a batch is decided again after a taken key or a
	// rollback by the server.
	batchAttempts = 3
	// clockAge is for how long we continue the database's time with our own clock. At
	// a drift of 100 ppm the two then differ by less than 10 ms.
	clockAge   = time.Minute
	holdsSize  = 1 << 15                // a few megabytes
	silentPoll = 200 * time.Millisecond // how often to check whether etcd answers again
)

// run sells until the tenure ends. It turns a panic into an error, so that the
// process and its other desks continue, and answers the batch in hand as unknown.
func (t *tenure) run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			t.fail(fmt.Errorf("%w: the desk failed", ErrUnknown))
		}
	}()
	return t.sell()
}

// sell sells batch after batch until the lock is lost or another replica needs it,
// or the desk is idle. If a newer holder has claimed the row, it returns nil.
func (t *tenure) sell() error {
	t.cfg.At(BeforeClaim)
	if err := t.readRow(); err != nil {
		if errors.Is(err, stock.ErrFenced) {
			t.desk.contention.takeLastSign() // another replica has taken over
		}
		return err
	}
	t.desk.wait = 0
	t.began = time.Now()
	if since := t.desk.contention.takeLastSign(); !since.IsZero() {
		vacant := t.began.Sub(since)
		t.cfg.Metrics.Vacant.Observe(vacant.Seconds())
		t.cfg.Logger.Info("sells a SKU after a seller that does not respond", "sku", t.desk.sku, "token", t.held.Token(), "vacant", vacant.String())
	}
	for t.awaitWork() {
		t.batch = t.desk.gather()
		if len(t.batch) == 0 {
			continue
		}
		err := t.serve()
		if err == nil && time.Since(t.asOf) > clockAge {
			err = t.readRow()
		}
		if errors.Is(err, stock.ErrFenced) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// serve answers each ticket of the batch, or requeues it. An error ends the tenure.
func (t *tenure) serve() error {
	if t.batch[0].order != nil {
		return t.sellBatch()
	}
	t.desk.apply(t.batch)
	t.batch = nil
	return t.readRow() // the changes have modified the row
}

// awaitWork waits for work, or returns false when the tenure has to end.
func (t *tenure) awaitWork() bool {
	if t.cfg.Halted() != nil || t.lost() || t.contended() && time.Since(t.began) >= time.Duration(t.desk.desks.quantum.Load()) {
		return false
	}
	for !t.desk.hasWork() {
		lost, again := t.held.Lost(), (<-chan time.Time)(nil)
		if t.silent() {
			lost, again = nil, time.After(silentPoll)
		}
		select {
		case <-t.desk.queue.arrived:
			continue
		case <-again:
		case <-lost:
		case <-t.held.Contended(): // nothing to sell, and another replica waits
			return false
		case <-t.desk.desks.selling.Done():
			return t.desk.hasWork()
		case <-time.After(t.cfg.Desk.Idle):
			return false
		}
		if t.lost() {
			return false
		}
	}
	return true
}

// contended reports whether another replica waits for the lock.
func (t *tenure) contended() bool { return isClosed(t.held.Contended()) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// lost reports whether the lock was lost, so that the tenure has to end. If it was lost
// only because etcd does not answer, the tenure ends when etcd answers again: with a
// claim, MySQL refuses the writes of a tenure that has a successor, so the sale can
// continue without etcd.
func (t *tenure) lost() bool {
	if !t.silent() {
		return isClosed(t.held.Lost())
	}
	healthy, ok := t.cfg.Locker.(interface{ Healthy() error })
	return ok && healthy.Healthy() == nil
}

// silent reports whether the lock was lost only because etcd does not answer.
func (t *tenure) silent() bool {
	if t.claim.Fence != strategy.FenceClaim || !isClosed(t.held.Lost()) {
		return false
	}
	held, ok := t.held.(lock.LossReporter)
	return ok && held.TimedOut()
}

// readRow claims the row, if the fence requires that, and copies it.
func (t *tenure) readRow() error {
	ctx, cancel := context.WithTimeout(t.desk.desks.ctx, claimTimeout)
	defer cancel()
	ctx, end := t.cfg.step(t.cfg.spanOf(ctx, t.batch, t.desk.queue.oldest()), "claim", ofSKU(t.desk.sku))
	before := t.row.Seq
	t.cfg.yield(t.desk.desks.ctx, t.desk.sku)
	err := retryRolledBack(func() (err error) {
		t.row, err = t.cfg.database.claim(ctx, t.claim)
		return err
	})
	end(err)
	t.cfg.noteClaim(t.claim, nil, &t.row, err)
	if t.row.Seq < before {
		t.era = new(era) // the database went back in time, and has lost orders
	}
	t.asOf = time.Now() // after the call, so that our clock is never ahead of the database's
	if errors.Is(err, stock.ErrFenced) {
		t.cfg.Metrics.Fenced.Inc()
	}
	t.holds = nil
	if err == nil {
		t.cfg.Mirror.Changed(t.desk.sku, t.row.Available) // the last writer may not have updated it
	}
	return err
}

func (db inMySQL) claim(ctx context.Context, c stock.Claim) (stock.Row, error) {
	return c.Read(ctx, db.DB)
}
