package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// This file is how the lock comes to a desk and goes on to the next replica: why
// is in docs/decisions/0003.

// holdTenures takes the lock, sells while there is a reason to hold it, and gives
// it back; or queues up again as it does, and goes on when its turn comes. An
// error asks for a pause before the next tenure.
func (d *desk) holdTenures() error {
	if d.wait > 0 {
		// The last tenure failed. Without MySQL the lock would only be kept from
		// replicas that can use it.
		if err := d.ping(); err != nil {
			return err
		}
	}
	held, err := d.awaitLock(d.ctx, func(ctx context.Context) (lock.Held, error) { return d.cfg.Locker.Lock(ctx, d.sku) })
	for held != nil && err == nil {
		held, err = d.hold(held)
	}
	return err
}

// awaitLock waits for the lock, by way of ask.
func (d *desk) awaitLock(ctx context.Context, ask func(context.Context) (lock.Held, error)) (lock.Held, error) {
	asked := time.Now()
	// Orders that wait since now are gone after the request time-out; giving
	// the lock up earlier would lose this replica's place in the queue.
	ctx, cancel := context.WithTimeout(ctx, d.cfg.RequestTimeout)
	defer cancel()
	ctx, end := d.cfg.step(d.cfg.spanOf(ctx, d.pending), "lock wait", ofSKU(d.sku))
	held, err := ask(ctx)
	end(err)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	d.cfg.Metrics.LockWait.Observe(time.Since(asked).Seconds())
	d.cfg.Metrics.Held.Inc()
	return held, nil
}

// hold is one tenure, from its grant until that is given back. next is the grant
// of the one that follows at once, if any.
func (d *desk) hold(held lock.Held) (next lock.Held, err error) {
	granted := time.Now()
	t := &tenure{
		desk: d, held: held,
		right: stock.Tenure{SKU: d.sku, Token: held.Token(), Fence: d.cfg.Fence},
	}
	err = t.guarded()
	d.cfg.Metrics.Held.Dec()
	if t.wanted() {
		d.cfg.Metrics.HandOvers.Inc()
	}
	if line, ok := held.(lock.InLine); ok && err == nil && t.comesAgain() {
		return d.yield(line, granted)
	}
	d.giveBack(held, granted)
	return nil, err
}

// yield gives the lock to the next in line and waits for it to come round again.
func (d *desk) yield(held lock.InLine, granted time.Time) (next lock.Held, err error) {
	ctx := d.ctx
	if !d.hasWork() {
		// More is expected. When the replica closes, it is not.
		ctx = d.selling
	}
	d.cfg.Metrics.LockHold.Observe(time.Since(granted).Seconds())
	next, err = d.awaitLock(ctx, held.Yield)
	if errors.Is(err, lock.ErrLost) {
		d.lost(held)
		err = nil
	}
	if closing := ctx != d.ctx && ctx.Err() != nil; closing || errors.Is(err, context.DeadlineExceeded) && !d.hasWork() {
		err = nil // nobody waits for it; what has come meanwhile asks again
	}
	return next, err
}

func (d *desk) ping() error {
	ctx, cancel := context.WithTimeout(d.ctx, pingTimeout)
	defer cancel()
	if err := d.cfg.DB.Ping(ctx); err != nil {
		return fmt.Errorf("MySQL does not answer: %w", err)
	}
	return nil
}

func (d *desk) giveBack(held lock.Held, granted time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), unlockTimeout)
	defer cancel()
	err := held.Unlock(ctx)
	d.cfg.Metrics.LockHold.Observe(time.Since(granted).Seconds())
	switch {
	case errors.Is(err, lock.ErrLost):
		d.lost(held)
	case err != nil:
		// The back-end goes on trying; the lease ends it at the latest.
		d.cfg.Logger.Warn("unlock", "sku", d.sku, "error", err)
	}
}

func (d *desk) lost(held lock.Held) {
	d.cfg.Metrics.LockLosses.Inc()
	d.cfg.Logger.Warn("lock was lost", "sku", d.sku, "token", held.Token())
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

// isLast reports whether the batch in hand is the tenure's last: another replica
// waits, and either the quantum is over, or the least time is and nothing more is
// left to sell here. To wait for more would have that replica's buyers wait for a
// batch of few.
func (t *tenure) isLast() bool {
	if !t.wanted() {
		return false
	}
	lasted := time.Since(t.began)
	return t.quantumOver(lasted) || lasted >= t.cfg.Desk.Least && len(t.pending) == 0 && t.queue.empty()
}

// heir is the token to register with a decision that is the tenure's last. A
// refusal has yet to be checked against the row as this tenure knows it.
func (t *tenure) heir(d *decision) lock.Token {
	line, ok := t.held.(lock.InLine)
	if !ok || t.right.Fence != strategy.FenceClaim || len(d.refused) > 0 {
		return 0
	}
	return line.Next()
}

// fullSwing is a batch that says that more orders will be here by the time that
// the lock comes round again.
const fullSwing = 8

// comesAgain reports whether to queue up again as the lock is given back.
func (t *tenure) comesAgain() bool {
	return t.wanted() && t.selling.Err() == nil && (t.largest >= fullSwing || t.hasWork())
}
