package order

import (
	"context"
	"database/sql"
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
	right stock.Tenure
	// row is the stock row as of asOf by this process's monotonic clock.
	row  stock.Row
	asOf time.Time
	// holds are the units of customers that were looked up, kept up to date.
	holds map[string]int64
	// began is when the claim was done: the quantum counts from here, or one
	// that a slow claim has used up would sell nothing, on one replica after
	// the other.
	began time.Time
	// shown is the row's Reopened that every replica can know of.
	shown uint64
	// batch is in hand: taken, and not yet answered.
	batch []*ticket
	// largest is the size of the largest batch so far.
	largest int
	// over: the last batch has been sold, and another replica waits. The row may
	// be that one's already: it must not be claimed again.
	over bool
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
// elsewhere, or nothing has come for the idle time.
func (t *tenure) sellWhileHeld() error {
	if t.wanted() && !t.hasWork() {
		return nil // they who wait have some
	}
	t.cfg.At(BeforeClaim)
	if err := t.begin(); err != nil {
		return err
	}
	t.wait = 0
	t.began = time.Now()
	for t.awaitOrders() {
		t.batch = t.gather()
		t.largest = max(t.largest, len(t.batch))
		if len(t.batch) == 0 {
			continue
		}
		serve := t.sellBatch
		if t.batch[0].change != nil {
			serve = t.alter
		}
		if err := serve(); err != nil {
			return err
		}
		if !t.over && time.Since(t.asOf) > clockAge {
			if err := t.begin(); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitOrders reports whether to sell another batch, once there may be one.
func (t *tenure) awaitOrders() bool {
	select {
	case <-t.held.Lost():
		return false
	default:
	}
	if t.over || t.wanted() && t.quantumOver(time.Since(t.began)) {
		return false
	}
	for !t.hasWork() {
		idle := time.NewTimer(t.cfg.Desk.Idle)
		select {
		case <-t.queue.arrived:
			idle.Stop()
			continue
		case <-t.held.Lost():
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

// begin claims the row and reads it.
func (t *tenure) begin() error {
	ctx, cancel := context.WithTimeout(t.ctx, claimTimeout)
	defer cancel()
	ctx, end := t.cfg.step(t.cfg.spanOf(ctx, t.batch, t.pending), "claim", ofSKU(t.sku))
	err := retried(func() (err error) {
		t.row, err = t.right.Begin(ctx, t.cfg.DB)
		return err
	})
	end(err)
	t.asOf = time.Now() // after the call: our clock is never ahead of the database's
	if errors.Is(err, stock.ErrFenced) {
		t.cfg.Metrics.Fenced.Inc()
	}
	t.holds = nil
	return err
}

// beginAgain reads the row after this replica has changed it.
func (t *tenure) beginAgain() error {
	if err := t.begin(); err != nil {
		return err
	}
	t.cfg.Mirror.Changed(t.sku, t.row.Available)
	return nil
}

func (t *tenure) now() time.Time { return t.row.Now.Add(time.Since(t.asOf)) }

// sellBatch brings the batch in hand to its end: every order of it is answered,
// or waits again. An error ends the tenure.
func (t *tenure) sellBatch() error {
	for range batchAttempts {
		d, err := t.decide()
		if err != nil {
			t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			return err
		}
		if len(d.orders) == 0 {
			return t.refuse(d)
		}
		if err := t.showUnits(); err != nil {
			t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			return err
		}
		t.cfg.At(BeforeCommit)
		right, last := t.right, t.isLast()
		if last {
			right.Heir = t.heir(d)
		}
		err = t.committer.commit(t.ctx, &write{tenure: right, row: t.row, units: d.units, orders: d.orders, tickets: d.accepted, alone: t.alone})
		t.alone = stock.IsRetryable(err)
		switch {
		case err == nil:
			t.over = last
			t.accept(d)
			return t.refuse(d)
		case stock.IsDuplicate(err):
			// Some key is taken. Answer those, and decide the others again:
			// units that were refused to them may now be left.
			if err := t.replay(d.accepted); err != nil {
				t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
				return err
			}
		case stock.IsRetryable(err):
		case errors.Is(err, stock.ErrFenced):
			// A newer holder, or a change of the SKU: begin tells which.
			t.cfg.Metrics.Fenced.Inc()
			t.requeue()
			return t.begin()
		case errors.Is(err, stock.ErrOutcomeUnknown):
			t.cfg.Metrics.Unknown.Inc()
			orders, requests := d.ids()
			t.cfg.Logger.Warn("unknown commit", "sku", t.sku, "orders", len(d.orders), "order_ids", orders, "request_ids", requests, "error", err)
			return t.resolve(d, right.Heir, err)
		default:
			t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			return err
		}
	}
	t.fail(fmt.Errorf("%w: the batch was given up %d times", ErrUnavailable, batchAttempts))
	return nil
}

// alter makes the changes of the batch, and reads the row again.
func (t *tenure) alter() error {
	changes := make([]change, len(t.batch))
	for i, b := range t.batch {
		changes[i] = *b.change
	}
	t.cfg.apply(t.cfg.spanOf(t.ctx, t.batch), t.sku, changes, func(i int, err error) { t.batch[i].answer(Placed{}, err) })
	t.batch = nil
	return t.beginAgain()
}

// accept takes a committed decision into memory and answers its orders.
func (t *tenure) accept(d *decision) {
	t.row.Available -= d.units
	t.row.Seq++
	t.cfg.Mirror.Changed(t.sku, t.row.Available)
	t.cfg.Metrics.BatchSize.Observe(float64(len(d.orders)))
	for i, b := range d.accepted {
		t.placed(b, d.orders[i])
	}
}

func (t *tenure) placed(b *ticket, o *Order) {
	t.recent.put(*o)
	if t.holds != nil {
		t.holds[o.Customer] += int64(o.Quantity)
	}
	b.answer(Placed{Order: *o}, nil)
}

// refuse answers the refused orders of a decision, the last of the batch: with
// the order that stands under their key, else with the reason.
func (t *tenure) refuse(d *decision) error {
	t.batch = d.refused
	if len(d.refused) == 0 {
		t.batch = nil
		return nil
	}
	err := t.replay(d.refused)
	if err == nil {
		err = t.stillCurrent()
	}
	if errors.Is(err, stock.ErrFenced) {
		t.cfg.Metrics.Fenced.Inc()
		t.requeue()
		return t.begin()
	}
	if err != nil {
		t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
		return err
	}
	for i, b := range d.refused {
		b.answer(Placed{}, d.reasons[i]) // counts only if no replay came first
	}
	t.batch = nil
	return nil
}

// stillCurrent returns stock.ErrFenced when the row is no longer what the tenure
// knows. A refusal writes nothing that the fence could refuse: a holder that was
// paused would turn buyers away by what another has changed since.
func (t *tenure) stillCurrent() error {
	if t.right.Fence != strategy.FenceClaim {
		return nil
	}
	current, err := onConn(t, func(ctx context.Context, conn *sql.Conn) (bool, error) {
		return t.right.Current(ctx, conn, t.row)
	})
	if err == nil && !current {
		err = stock.ErrFenced
	}
	return err
}

// replay answers those of the given orders whose key is taken, and takes them
// out of the batch in hand.
func (t *tenure) replay(tickets []*ticket) error {
	if len(tickets) == 0 {
		return nil
	}
	keys := make([]byKey, len(tickets))
	for i, b := range tickets {
		keys[i] = b.key()
	}
	found, err := onConn(t, func(ctx context.Context, conn *sql.Conn) (map[byKey]Order, error) {
		return findByKeys(ctx, conn, keys)
	})
	if err != nil {
		return err
	}
	rest := make([]*ticket, 0, len(t.batch))
	for _, b := range t.batch {
		o, ok := found[b.key()]
		if !ok {
			rest = append(rest, b)
			continue
		}
		t.recent.put(o)
		b.answer(replayOf(o, &b.req))
	}
	t.batch = rest
	return nil
}

// resolve finds out which orders of an unknown commit stand, which was to admit
// heir unless that is 0. The others wait
// again, unless the server's own error, the cause, ended them: nothing says that
// it would not again. Where it cannot be known in time, the orders are answered
// as unknown and the tenure ends: the next one's token shuts the lost commit out.
func (t *tenure) resolve(d *decision, heir lock.Token, cause error) error {
	// They were in no transaction, and may leave meanwhile.
	t.putBack(d.refused)
	t.batch = d.accepted
	ctx, cancel := context.WithTimeout(t.ctx, resolveTimeout)
	defer cancel()
	ids := make([]ID, len(d.orders))
	for i, o := range d.orders {
		ids[i] = o.ID
	}
	found, err := settle(ctx, t.cfg.DB, t.sku, ids)
	if err != nil {
		t.fail(fmt.Errorf("%w: %w", ErrUnknown, err))
		return err
	}
	var rest []*ticket
	for i, b := range d.accepted {
		if found[d.orders[i].ID] {
			t.placed(b, d.orders[i])
		} else {
			rest = append(rest, b)
		}
	}
	t.batch = rest
	if stock.IsServerError(cause) && len(found) == 0 {
		t.fail(fmt.Errorf("%w: %w", ErrUnavailable, cause))
		return cause
	}
	if len(found) > 0 && heir != 0 {
		// The row is the heir's from here on: to claim it again would be refused.
		t.over = true
		t.cfg.Mirror.Changed(t.sku, t.row.Available-d.units)
		return nil
	}
	t.requeue()
	return t.beginAgain() // the row was settled: read what it is now
}

// requeue lets the batch in hand wait again.
func (t *tenure) requeue() {
	t.putBack(t.batch)
	t.batch = nil
}

// fail answers the batch in hand with err.
func (t *tenure) fail(err error) {
	for _, b := range t.batch {
		b.answer(Placed{}, err)
	}
	t.batch = nil
}

// onConn runs one read of the tenure, within the time of a commit.
func onConn[T any](t *tenure, read func(context.Context, *sql.Conn) (T, error)) (result T, err error) {
	ctx, cancel := context.WithTimeout(t.ctx, commitTimeout)
	defer cancel()
	err = t.cfg.DB.OnConn(ctx, func(conn *sql.Conn) (err error) {
		result, err = read(ctx, conn)
		return err
	})
	return result, err
}
