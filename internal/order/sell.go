package order

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"flashsale/internal/stock"
)

// decision is what a tenure decides for a batch from memory. A slice "of" another one is
// parallel to it.
type decision struct {
	accepted []*ticket
	orders   []*Order // of accepted
	hashes   []uint64 // of accepted: of their keys
	units    int64    // of all orders
	refused  []*ticket
	reasons  []error   // of refused
	replays  []*ticket // those with a remembered key
	replayed []Order   // of replays
}

func (t *tenure) sellBatch() error {
	for range batchAttempts {
		t.cfg.At(BeforeWrite)
		d, err := t.decide()
		if err != nil {
			return t.unavailable(err)
		}
		if len(d.orders) == 0 {
			return t.refuse(d)
		}
		t.cfg.At(BeforeCommit)
		t.cfg.yield(t.desk.desks.ctx, t.desk.sku)
		err = t.desk.desks.committer.commit(t.desk.desks.ctx,
			&write{claim: t.claim, row: t.row, units: d.units, orders: d.orders, tickets: d.accepted, alone: t.desk.alone, maxUnpaid: t.cfg.MaxUnpaid})
		t.cfg.noteCommits(t.claim.Token, d, t.row.Available, err)
		t.desk.alone = stock.IsRetryable(err)
		switch {
		case err == nil:
			t.accept(d)
			return t.refuse(d)
		case stock.IsDuplicate(err):
			// Some keys are taken. Answer their orders, and decide the others again:
			// units that were refused to them may now be available.
			if err := t.replay(d.accepted); err != nil {
				return t.unavailable(err)
			}
		case stock.IsRetryable(err):
		case errors.Is(err, ErrTooManyUnpaid):
			// Another SKU's order came between our count and the write. The row is as it
			// was, so the orders are decided again without a new claim.
			t.requeue()
			return nil
		case errors.Is(err, stock.ErrFenced):
			return t.fenced()
		case errors.Is(err, stock.ErrOutcomeUnknown):
			t.cfg.Metrics.Unknown.Inc()
			orders, requests := d.ids()
			t.cfg.Logger.Warn("unknown commit", "sku", t.desk.sku, "orders", len(d.orders), "order_ids", orders, "request_ids", requests, "error", err)
			return t.resolve(d, err)
		default:
			return t.unavailable(err)
		}
	}
	t.fail(fmt.Errorf("%w: the batch was rolled back %d times", ErrUnavailable, batchAttempts))
	return nil
}

// decide decides the batch in hand, and answers nothing. Each order is decided as if those
// accepted before it in the batch were already committed.
func (t *tenure) decide() (*decision, error) {
	if err := t.lookUpHolds(); err != nil {
		return nil, err
	}
	unpaid, err := t.lookUpUnpaid()
	if err != nil {
		return nil, err
	}
	d := &decision{}
	now := t.row.Now.Add(time.Since(t.asOf))
	keys := make(map[uint64]bool, len(t.batch)) // by hash
	takes := map[string]int64{}                 // units in this batch by customer, if there is a limit
	var deciding, sameKey []*ticket
	for _, b := range t.batch {
		o := b.order
		hash := o.key().hash()
		if replayed, ok := t.desk.desks.memory.get(o.key(), hash, t.era); ok {
			d.replays, d.replayed = append(d.replays, b), append(d.replayed, replayed)
			deciding = append(deciding, b)
			continue
		}
		// The second order of a key, or of a hash, waits for the answer to the first.
		if keys[hash] {
			o.keyInFlight.Store(true)
			sameKey = append(sameKey, b)
			continue
		}
		keys[hash] = true
		deciding = append(deciding, b)
		n := int64(o.Quantity)
		left := t.row.Available - d.units
		reason := checkSale(&t.row, now, o.Request)
		switch limit := t.row.PerCustomerLimit; {
		case reason != nil:
		case left < n:
			reason = tooFew(left)
		case limit != nil && t.holds[o.Customer].units+takes[o.Customer]+n > int64(*limit):
			reason = t.holds[o.Customer].overLimit(takes[o.Customer]+n, int64(*limit))
		case unpaid != nil && unpaid[o.Customer] >= t.cfg.MaxUnpaid:
			reason = ErrTooManyUnpaid
		}
		if reason != nil {
			d.refused, d.reasons = append(d.refused, b), append(d.reasons, reason)
			continue
		}
		order := t.cfg.makeOrder(o.Request, o.id, &t.row, now, t.claim.RecordedToken())
		order.Seq++ // the seq of the write that admits it
		d.accepted, d.orders, d.hashes = append(d.accepted, b), append(d.orders, &order), append(d.hashes, hash)
		d.units += n
		if t.row.PerCustomerLimit != nil {
			takes[o.Customer] += n
		}
		if unpaid != nil {
			unpaid[o.Customer]++
		}
	}
	t.batch = deciding
	t.desk.putBack(sameKey)
	return d, nil
}

func (t *tenure) lookUpHolds() error {
	if t.row.PerCustomerLimit == nil {
		return nil
	}
	if t.holds == nil || len(t.holds) > holdsSize {
		t.holds = map[string]holding{}
	}
	if t.row.HoldPolicy == stock.Strict {
		t.forgetFull()
	}
	var missing []string
	for _, b := range t.batch {
		if _, ok := t.holds[b.order.Customer]; !ok {
			t.holds[b.order.Customer] = holding{}
			missing = append(missing, b.order.Customer)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.desk.desks.ctx, commitTimeout)
	defer cancel()
	held, err := t.cfg.database.heldBy(ctx, t.desk.sku, t.row.HoldPolicy, missing)
	if err != nil {
		t.holds = nil
		return err
	}
	maps.Copy(t.holds, held)
	return nil
}

// forgetFull forgets the customers whom the batch might bring above the limit: a payment
// window may have ended since they were looked up, so that they hold less.
func (t *tenure) forgetFull() {
	asks := map[string]int64{}
	for _, b := range t.batch {
		c := b.order.Customer
		asks[c] += int64(b.order.Quantity)
		if t.holds[c].units+asks[c] > int64(*t.row.PerCustomerLimit) {
			delete(t.holds, c)
		}
	}
}

// lookUpUnpaid counts the unpaid orders of the batch's customers. It returns nil if the
// batch's orders do not count.
func (t *tenure) lookUpUnpaid() (map[string]int, error) {
	if t.cfg.MaxUnpaid == 0 || t.row.PriceCents == 0 {
		return nil, nil
	}
	customers := make([]string, len(t.batch))
	for i, b := range t.batch {
		customers[i] = b.order.Customer
	}
	ctx, cancel := context.WithTimeout(t.desk.desks.ctx, commitTimeout)
	defer cancel()
	return t.cfg.database.unpaidOf(ctx, customers)
}

// fenced returns the unwritten batch to the queue and reads the row: it may have changed,
// or a newer holder has claimed it.
func (t *tenure) fenced() error {
	t.cfg.Metrics.Fenced.Inc()
	t.requeue()
	return t.readRow()
}

// accept applies a committed decision to the row in memory, and answers its orders.
func (t *tenure) accept(d *decision) {
	t.row.Available -= d.units
	t.row.Seq++
	t.cfg.Mirror.Changed(t.desk.sku, t.row.Available)
	t.cfg.Metrics.BatchSize.Observe(float64(len(d.orders)))
	t.desk.desks.memory.put(d.orders, d.hashes, t.era)
	for i, b := range d.accepted {
		t.placed(b, d.orders[i])
	}
	t.answerReplays(d)
}

func (t *tenure) placed(b *ticket, o *Order) {
	if t.holds != nil {
		h := t.holds[o.Customer]
		h.units += int64(o.Quantity)
		t.holds[o.Customer] = h
	}
	b.answer(Placed{Order: *o}, nil)
}

// answerReplays answers the orders with remembered keys. The caller must have
// compared the row with MySQL first: a database that went back in time has lost them.
func (t *tenure) answerReplays(d *decision) {
	for i, b := range d.replays {
		t.answerReplay(b, d.replayed[i])
	}
	d.replays = nil
}

func (t *tenure) answerReplay(b *ticket, o Order) {
	placed, err := replayOf(o, b.order.Request)
	t.cfg.noteDecision(b.order.Request, &placed, err)
	b.answer(placed, err)
}

// refuse answers each refused order with the existing order of its key, or the reason.
func (t *tenure) refuse(d *decision) error {
	t.batch = append(d.refused, d.replays...)
	if len(t.batch) == 0 {
		t.batch = nil
		return nil
	}
	// A refusal writes nothing that the fence could stop. Without the check, a holder
	// that was paused would refuse orders on the basis of an old row.
	c := check{claim: t.claim, row: t.row, keys: keysOf(d.refused), done: make(chan error, 1)}
	t.cfg.yield(t.desk.desks.ctx, t.desk.sku)
	t.desk.desks.checks.add(t.desk.desks.ctx, &c)
	switch err := <-c.done; { // each packet, also of earlier checks, takes up to commitTimeout
	case err != nil:
		return t.unavailable(err)
	case !c.current:
		return t.fenced()
	}
	t.answerReplays(d)
	for i, b := range d.refused {
		if o, ok := c.found[b.order.key()]; ok {
			t.answerReplay(b, o)
		} else {
			t.cfg.noteDecision(b.order.Request, &Placed{}, d.reasons[i])
			b.answer(Placed{}, d.reasons[i])
		}
	}
	t.batch = nil
	return nil
}

// replay answers the orders whose keys are taken, and removes them from the batch.
func (t *tenure) replay(tickets []*ticket) error {
	ctx, cancel := context.WithTimeout(t.desk.desks.ctx, commitTimeout)
	defer cancel()
	found, err := t.cfg.database.findByKeys(ctx, keysOf(tickets))
	if err != nil {
		return err
	}
	rest := make([]*ticket, 0, len(t.batch))
	for _, b := range t.batch {
		if o, ok := found[b.order.key()]; ok {
			t.answerReplay(b, o)
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
		keys[i] = t.order.key()
	}
	return keys
}

// resolve finds out which orders of an unknown commit exist. The others return to the
// queue, unless the cause is an error of the server, which might repeat itself. If the
// outcome stays unknown until resolveTimeout, the orders are answered as unknown and
// the tenure ends: after that, the next token stops the lost commit.
func (t *tenure) resolve(d *decision, cause error) error {
	// These were in no transaction, and may leave in the meantime.
	t.desk.putBack(append(d.refused, d.replays...))
	t.batch = d.accepted
	ctx, cancel := context.WithTimeout(t.desk.desks.ctx, resolveTimeout)
	defer cancel()
	ids := make([]ID, len(d.orders))
	for i, o := range d.orders {
		ids[i] = o.ID
	}
	found, err := settle(ctx, t.cfg.database, t.desk.sku, ids)
	if err != nil {
		t.fail(unknown(err))
		return err
	}
	if len(found) > 0 { // all of them: they share a transaction
		t.cfg.noteCommits(t.claim.Token, d, t.row.Available, nil)
	}
	var rest []*ticket
	for i, b := range d.accepted {
		if at := slices.IndexFunc(found, func(o Order) bool { return o.ID == d.orders[i].ID }); at >= 0 {
			b.answer(replayOf(found[at], b.order.Request))
		} else {
			rest = append(rest, b)
		}
	}
	t.batch = rest
	if stock.IsServerError(cause) && len(found) == 0 {
		return t.unavailable(cause)
	}
	t.requeue()
	return t.readRow() // settle has modified the row
}

func (t *tenure) requeue() {
	t.desk.putBack(t.batch)
	t.batch = nil
}

func (t *tenure) fail(err error) {
	for _, b := range t.batch {
		b.answer(Placed{}, err)
	}
	t.batch = nil
}

// unavailable answers the unwritten batch, and returns err, which ends the tenure.
func (t *tenure) unavailable(err error) error {
	t.fail(unavailable(err))
	return err
}
