package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"flashsale/internal/stock"
)

// This file is what becomes of a batch of orders in its tenure: see decide for
// what memory says to it, and refusals.go for what is read before a refusal.

// sellBatch decides the batch in hand and writes what it decided.
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
		t.cfg.At(BeforeCommit)
		err = t.committer.commit(t.ctx, &write{tenure: t.right, row: t.row, units: d.units, orders: d.orders, tickets: d.accepted, alone: t.alone})
		t.alone = stock.IsRetryable(err)
		switch {
		case err == nil:
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
			return t.fenced()
		case errors.Is(err, stock.ErrOutcomeUnknown):
			t.cfg.Metrics.Unknown.Inc()
			orders, requests := d.ids()
			t.cfg.Logger.Warn("unknown commit", "sku", t.sku, "orders", len(d.orders), "order_ids", orders, "request_ids", requests, "error", err)
			return t.resolve(d, err)
		default:
			t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
			return err
		}
	}
	t.fail(fmt.Errorf("%w: the batch was given up %d times", ErrUnavailable, batchAttempts))
	return nil
}

// fenced lets the batch in hand wait again, of which nothing was written, and
// reads the row: begin tells a change of the SKU from a newer holder.
func (t *tenure) fenced() error {
	t.cfg.Metrics.Fenced.Inc()
	t.requeue()
	return t.begin()
}

// accept takes a committed decision into memory and answers its orders.
func (t *tenure) accept(d *decision) {
	t.row.Available -= d.units
	t.row.Seq++
	t.cfg.Mirror.Changed(t.sku, t.row.Available)
	t.cfg.Metrics.BatchSize.Observe(float64(len(d.orders)))
	t.memory.put(d.orders, d.hashes, t.era)
	for i, b := range d.accepted {
		t.placed(b, d.orders[i])
	}
	t.answerReplays(d)
}

func (t *tenure) placed(b *ticket, o *Order) {
	if t.holds != nil {
		t.holds[o.Customer] += int64(o.Quantity)
	}
	b.answer(Placed{Order: *o}, nil)
}

// answerReplays answers the orders whose keys are remembered, once MySQL has said
// that the row is the one that this tenure knows. A database that went back has
// forgotten them.
func (t *tenure) answerReplays(d *decision) {
	for i, b := range d.replays {
		b.answer(replayOf(d.replayed[i], &b.req))
	}
	d.replays = nil
}

// refuse answers the refused orders of a decision, the last of the batch: with
// the order that stands under their key, else with the reason.
func (t *tenure) refuse(d *decision) error {
	t.batch = append(d.refused, d.replays...)
	if len(t.batch) == 0 {
		t.batch = nil
		return nil
	}
	// A refusal writes nothing that the fence could refuse: a holder that was paused
	// would turn buyers away by what another has changed since.
	c := check{right: t.right, row: t.row, keys: keysOf(d.refused)}
	switch err := t.checker.check(t.ctx, &c); {
	case err != nil:
		t.fail(fmt.Errorf("%w: %w", ErrUnavailable, err))
		return err
	case !c.current:
		return t.fenced()
	}
	t.answerReplays(d)
	for i, b := range d.refused {
		if o, ok := c.found[b.key()]; ok {
			b.answer(replayOf(o, &b.req))
		} else {
			b.answer(Placed{}, d.reasons[i])
		}
	}
	t.batch = nil
	return nil
}

// replay answers those of the given orders whose key is taken, and takes them
// out of the batch in hand.
func (t *tenure) replay(tickets []*ticket) error {
	keys := keysOf(tickets)
	ctx, cancel := context.WithTimeout(t.ctx, commitTimeout)
	defer cancel()
	var found map[byKey]Order
	err := t.cfg.DB.OnConn(ctx, func(conn *sql.Conn) (err error) {
		found, err = findByKeys(ctx, conn, keys)
		return err
	})
	if err != nil {
		return err
	}
	rest := make([]*ticket, 0, len(t.batch))
	for _, b := range t.batch {
		if o, ok := found[b.key()]; ok {
			b.answer(replayOf(o, &b.req))
		} else {
			rest = append(rest, b)
		}
	}
	t.batch = rest
	return nil
}

func keysOf(tickets []*ticket) []byKey {
	keys := make([]byKey, len(tickets))
	for i, t := range tickets {
		keys[i] = t.key()
	}
	return keys
}

// resolve finds out which orders of an unknown commit stand. The others wait again, unless the server's own error, the cause, ended them: nothing says that
// it would not again. Where it cannot be known in time, the orders are answered
// as unknown and the tenure ends: the next one's token shuts the lost commit out.
func (t *tenure) resolve(d *decision, cause error) error {
	// They were in no transaction, and may leave meanwhile.
	t.putBack(append(d.refused, d.replays...))
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
