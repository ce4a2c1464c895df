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

// tenure is the time that a desk holds its SKU's lock, over several batches.
// While it lasts, the row in memory is the row in MySQL; the fence makes sure
// that where this is not so, nothing is written.
type tenure struct {
	*desk
	held  lock.Held
	right stock.Claim
	// row is the stock row as of asOf by this process's monotonic clock.
	row  stock.Row
	asOf time.Time
	// holds are the units of customers that were looked up, kept up to date.
	holds map[string]int64
	// era names what the memory may say of this SKU: what this tenure has written
	// or read, unless the row went back since.
	era *era
	// began is when the claim was done: the quantum counts from here, or one
	// that a slow claim has used up would sell nothing, on one replica after
	// the other.
	began time.Time
	// batch is in hand: taken, and not yet answered.
	batch []*ticket
}

const (
	// claimTimeout bounds the claim. The server gives up a row lock after a
	// second, so this leaves a second try.
	claimTimeout = 2500 * time.Millisecond
	// commitTimeout bounds one batch's transaction; after it the outcome is
	// unknown and resolved.
	commitTimeout = 2 * time.Second
	// resolveTimeout bounds the resolving of an unknown commit. With the commit
	// it is within the usual request time-out, beyond which nobody waits for the
	// answer: a replica that is cut off from MySQL should not keep the lock.
	resolveTimeout = 2500 * time.Millisecond
	// batchAttempts bounds how often one batch is decided again after keys in
	// it turned out to be taken, or the server gave its transaction up.
	batchAttempts = 3
	// clockAge is how long the database's clock is extrapolated by ours. At a
	// drift of 100 ppm they part by less than 10 ms.
	clockAge = time.Minute
	// holdsSize bounds the customers whose units a tenure remembers, in some
	// megabytes.
	holdsSize = 1 << 15
	// silentPoll is how often a tenure looks whether etcd answers again.
	silentPoll = 200 * time.Millisecond
)

// guarded is sellWhileHeld in which nothing panics: the process and its other
// desks go on. What was in hand is unknown then.
func (t *tenure) guarded() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			t.fail(fmt.Errorf("%w: the desk failed", ErrUnknown))
		}
	}()
	return t.sellWhileHeld()
}

// sellWhileHeld sells batch after batch until the lock is lost or wanted
// elsewhere, or nothing has come for the idle time. A newer holder's claim ends it
// without an error.
func (t *tenure) sellWhileHeld() error {
	t.cfg.At(BeforeClaim)
	// The mirror is told: the seller before may have died with its last changes.
	if err := t.beginAgain(); err != nil {
		return err
	}
	t.wait = 0
	t.began = time.Now()
	if since := t.contends.vacantSince(); !since.IsZero() {
		t.cfg.Metrics.Vacant.Observe(t.began.Sub(since).Seconds())
	}
	for t.awaitOrders() {
		t.batch = t.gather()
		if len(t.batch) == 0 {
			continue
		}
		err := t.serve()
		if err == nil && time.Since(t.asOf) > clockAge {
			err = t.begin()
		}
		if errors.Is(err, stock.ErrFenced) {
			return nil // a newer holder has claimed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// serve brings the batch in hand to its end: every ticket of it is answered, or
// waits again. An error ends the tenure.
func (t *tenure) serve() error {
	if t.batch[0].change == nil {
		return t.sellBatch()
	}
	t.change(t.ctx, t.batch)
	t.batch = nil
	return t.beginAgain() // the row was changed
}

// awaitOrders reports whether to sell another batch, once there may be one.
func (t *tenure) awaitOrders() bool {
	if t.cfg.Halted() != nil || t.lost() || t.wanted() && t.quantumOver(time.Since(t.began)) {
		return false
	}
	for !t.hasWork() {
		idle := time.NewTimer(t.cfg.Desk.Idle)
		lost, again := t.held.Lost(), (<-chan time.Time)(nil)
		if t.silent() {
			lost, again = nil, time.After(silentPoll)
		}
		select {
		case <-t.queue.arrived:
			idle.Stop()
			continue
		case <-again:
			idle.Stop()
			if !t.lost() {
				continue
			}
		case <-lost:
			idle.Stop()
			if !t.lost() {
				continue
			}
		case <-t.held.Wanted(): // nothing to sell here, and somebody waits
		case <-t.selling.Done():
			idle.Stop()
			return t.hasWork()
		case <-idle.C:
		}
		idle.Stop()
		return false
	}
	return true
}

// wanted reports whether another replica waits.
func (t *tenure) wanted() bool {
	select {
	case <-t.held.Wanted():
		return true
	default:
		return false
	}
}

// lost reports whether the lock was lost, so that the tenure has to end. Where
// MySQL refuses a tenure that has a successor, etcd's silence does not end it:
// with etcd down, sellers go on selling. Once etcd answers again, the lock is
// asked for anew.
func (t *tenure) lost() bool {
	if !t.silent() {
		select {
		case <-t.held.Lost():
			return true
		default:
			return false
		}
	}
	healthy, ok := t.cfg.Locker.(interface{ Healthy() error })
	return ok && healthy.Healthy() == nil
}

// silent reports whether the lock was given up only because etcd does not answer,
// behind a fence that makes it safe to go on.
func (t *tenure) silent() bool {
	if t.right.Fence != strategy.FenceClaim {
		return false
	}
	select {
	case <-t.held.Lost():
		held, ok := t.held.(lock.Silenced)
		return ok && held.Silent()
	default:
		return false
	}
}

// begin claims the row and reads it.
func (t *tenure) begin() error {
	ctx, cancel := context.WithTimeout(t.ctx, claimTimeout)
	defer cancel()
	ctx, end := t.cfg.step(t.cfg.spanOf(ctx, t.batch, t.queue.peek()), "claim", ofSKU(t.sku))
	before := t.row.Seq
	err := retried(func() (err error) {
		t.row, err = t.right.Begin(ctx, t.cfg.DB)
		return err
	})
	end(err)
	if t.row.Seq < before {
		t.era = new(era) // the database went back: what it forgot must be forgotten
	}
	t.asOf = time.Now() // after the call: our clock is never ahead of the database's
	if errors.Is(err, stock.ErrFenced) {
		t.cfg.Metrics.Fenced.Inc()
	}
	t.holds = nil
	return err
}

// beginAgain is begin where the mirror may not show the row yet.
func (t *tenure) beginAgain() error {
	if err := t.begin(); err != nil {
		return err
	}
	t.cfg.Mirror.Changed(t.sku, t.row.Available)
	return nil
}

func (t *tenure) now() time.Time { return t.row.Now.Add(time.Since(t.asOf)) }
