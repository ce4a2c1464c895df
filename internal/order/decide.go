package order

import (
	"context"
	"database/sql"
)

// decision is what memory says to a batch: who gets an order, and who is refused.
type decision struct {
	accepted []*ticket
	orders   []*Order // of accepted, in the same order
	hashes   []uint64 // of their keys
	units    int64    // of all orders
	refused  []*ticket
	reasons  []error   // of refused, in the same order
	replays  []*ticket // whose keys are remembered
	replayed []Order   // of replays, in the same order
}

// decide goes through the batch in hand. Units, limits and keys add up inside
// it. Nothing is answered.
func (t *tenure) decide() (*decision, error) {
	if err := t.lookUpHolds(); err != nil {
		return nil, err
	}
	d := &decision{}
	now := t.now()
	keys := make(map[uint64]bool, len(t.batch)) // by their hashes
	takes := map[string]int64{}                 // by customer, in this batch, where there is a limit
	var deciding, twins []*ticket
	for _, b := range t.batch {
		hash := b.key().hash()
		if o, ok := t.memory.get(b.key(), hash, t.era); ok {
			d.replays, d.replayed = append(d.replays, b), append(d.replayed, o)
			deciding = append(deciding, b)
			continue
		}
		// Of two keys with one hash the second waits for the next batch, as a twin does.
		if keys[hash] {
			b.twin.Store(true)
			twins = append(twins, b) // the first one's answer decides
			continue
		}
		keys[hash] = true
		deciding = append(deciding, b)
		n := int64(b.req.Quantity)
		left := t.row.Available - d.units
		reason := onSale(&t.row, now, &b.req)
		switch limit := t.row.PerCustomerLimit; {
		case reason != nil:
		case left < n:
			reason = short(left)
		case limit != nil && t.holds[b.req.Customer]+takes[b.req.Customer]+n > int64(*limit):
			reason = ErrCustomerLimit
		}
		if reason != nil {
			d.refused, d.reasons = append(d.refused, b), append(d.reasons, reason)
			continue
		}
		order := t.cfg.makeOrder(&b.req, b.req.id, &t.row, now, t.right.RecordedToken())
		order.Seq++ // that of the write which admits it
		d.accepted, d.orders, d.hashes = append(d.accepted, b), append(d.orders, &order), append(d.hashes, hash)
		d.units += n
		if t.row.PerCustomerLimit != nil {
			takes[b.req.Customer] += n
		}
	}
	t.batch = deciding
	t.putBack(twins)
	return d, nil
}

// lookUpHolds reads what the batch's customers hold, where the SKU has a limit
// and they are not known yet. Nobody else sells this SKU during the tenure.
func (t *tenure) lookUpHolds() error {
	if t.row.PerCustomerLimit == nil {
		return nil
	}
	if t.holds == nil || len(t.holds) > holdsSize {
		t.holds = map[string]int64{}
	}
	var unknown []string
	for _, b := range t.batch {
		if _, ok := t.holds[b.req.Customer]; !ok {
			t.holds[b.req.Customer] = 0
			unknown = append(unknown, b.req.Customer)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.ctx, commitTimeout)
	defer cancel()
	var held map[string]int64
	err := t.cfg.DB.OnConn(ctx, func(conn *sql.Conn) (err error) {
		held, err = heldBy(ctx, conn, t.sku, unknown)
		return err
	})
	if err != nil {
		t.holds = nil
		return err
	}
	for customer, units := range held {
		t.holds[customer] = units
	}
	return nil
}
