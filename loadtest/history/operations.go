package history

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"flashsale/loadtest/attack"
)

// record is what the database holds of one SKU after all calls.
type record struct {
	final
	rows []row
}

// row is an order or, without a customer, a restock.
type row struct {
	id            uuid.UUID
	customer, key string
	quantity      int
	status        string // of an order
	seq           uint64
}

// builder turns the calls and the rows of a SKU into the operations of its model.
type builder struct {
	*model
	// open are the first calls of each kind that may have been applied, for each thing that
	// they were about.
	open map[ask]*call
	// first are, for each entry, the first call that was answered with it, and whether an
	// answer said that it made it.
	first map[int]*call
	fresh map[int]bool
	// wrong are answers that no model can explain.
	wrong []string
}

// modelsOf builds the model of a SKU and those of its orders' lives. wrong describes what
// cannot be right whatever the order of the calls is.
func modelsOf(s *sale, r record) (all []*model, wrong []string) {
	b := &builder{model: &model{sku: s.sku, units: s.units, limit: s.limit, end: r.final},
		open: map[ask]*call{}, first: map[int]*call{}, fresh: map[int]bool{}}
	calls := slices.Clone(s.calls)
	slices.SortStableFunc(calls, func(x, y *call) int { return cmp.Compare(x.began, y.began) })
	var end time.Duration
	for i := range r.rows {
		b.stored(&r.rows[i])
	}
	for _, c := range calls {
		b.answered(c)
		end = max(end, c.ended+1)
	}
	b.settle(end)
	b.count()
	all = append(b.lives(), b.model)
	for _, m := range all {
		m.ops = append(m.ops, &op{verb: ends, entry: -1, began: end + 1, ended: end + 2})
		m.number()
	}
	return all, b.wrong
}

// answered adds the operation of a call. One that changed nothing and tells nothing has
// none; one that may have been applied is left to settle.
func (b *builder) answered(c *call) {
	o := &op{entry: -1, call: c, began: c.began, ended: c.ended}
	conflict := c.Status == http.StatusConflict
	switch {
	case c.Status == http.StatusInternalServerError:
		b.wrong = append(b.wrong, "an internal error: "+c.String())
		fallthrough
	case c.ambiguous():
		if b.open[c.ask] == nil {
			b.open[c.ask] = c
		}
		return
	case c.unapplied():
		return
	case (c.kind == Order || c.kind == Restock) && c.Outcome == attack.Accepted:
		o.entry = b.entry(c.customer, c.key, c.OrderID, c.quantity)
		if b.first[o.entry] == nil {
			b.first[o.entry] = c
		}
		o.verb = shows
		if !c.Replayed {
			o.verb = makes
			b.fresh[o.entry] = true
		}
	case c.kind == Order && conflict && c.Reason == "sold-out":
		o.verb = soldOut
	case c.kind == Order && conflict && c.Reason == "insufficient-stock":
		o.verb = insufficient
	case c.kind == Order && conflict && c.Reason == "customer-limit":
		o.verb = overLimit
	case c.kind == Payment && c.shown == "paid":
		o.verb, o.entry = pays, b.byID(c.order)
	case c.kind == Payment && conflict && c.Reason == "order-cancelled":
		o.verb, o.entry, o.mark = shows, b.byID(c.order), cancelled
	case c.kind == Cancellation && c.shown == "cancelled":
		o.verb, o.entry = cancels, b.byID(c.order)
	case c.kind == Cancellation && conflict && c.Reason == "already-paid":
		o.verb, o.entry, o.mark = shows, b.byID(c.order), paid
	case c.kind == Read && marks[c.shown] != 0:
		o.verb, o.entry, o.mark = shows, b.byID(c.order), marks[c.shown]
	default:
		b.wrong = append(b.wrong, "an answer that this call must not get: "+c.String())
		return
	}
	if o.entry < 0 && o.verb < soldOut {
		b.wrong = append(b.wrong, "an answer about an order that nobody was promised: "+c.String())
		return
	}
	b.ops = append(b.ops, o)
}

// entry returns the index of an order or restock, which it adds when it is new.
func (b *builder) entry(customer, key string, id uuid.UUID, quantity int) int {
	for i, e := range b.entries {
		if e.id == id && e.key == key && e.customer == customer {
			if e.quantity != quantity {
				b.wrong = append(b.wrong, fmt.Sprintf("%s has %d units, but %d were asked for with key %s", id, e.quantity, quantity, key))
			}
			return i
		}
	}
	b.entries = append(b.entries, &entry{customer: customer, key: key, id: id, quantity: quantity, restock: customer == "", row: absent})
	return len(b.entries) - 1
}

// byID returns the index of an order that has a row or was promised; -1 for any other.
func (b *builder) byID(id uuid.UUID) int {
	return slices.IndexFunc(b.entries, func(e *entry) bool { return e.id == id })
}

// stored adds a row.
func (b *builder) stored(r *row) {
	e := b.entries[b.entry(r.customer, r.key, r.id, r.quantity)]
	switch {
	case e.restock:
		e.row = restocked
	case r.status == "expired":
		e.row = expired
	default:
		e.row = marks[r.status]
	}
	e.seq = r.seq
}

// settle adds what calls without an answer have done, by the database. It happened at
// some time after they began. What the database does not show has never happened.
func (b *builder) settle(end time.Duration) {
	for i, e := range b.entries {
		kind := Order
		if e.restock {
			kind = Restock
		}
		by := b.open[ask{kind: kind, customer: e.customer, key: e.key, quantity: e.quantity}]
		if e.row == absent {
			by = nil
		}
		// A replay says that the order exists, but not which call made it. It may be its own:
		// replicas send an order again, too.
		if first := b.first[i]; first != nil && (by == nil || first.began < by.began) {
			by = first
		}
		if by != nil && !b.fresh[i] {
			b.ops = append(b.ops, &op{verb: makes, entry: i, call: by, began: by.began, ended: end})
		}
		for kind, final := range map[Kind]mark{Payment: paid, Cancellation: cancelled} {
			by := b.open[ask{kind: kind, customer: e.customer, order: e.id}]
			if by != nil && e.row == final {
				b.ops = append(b.ops, &op{verb: map[Kind]verb{Payment: pays, Cancellation: cancels}[kind], entry: i, call: by, began: by.began, ended: end})
			}
		}
	}
}

// count sets how many rows were written before each one, of those that a call made.
func (b *builder) count() {
	for _, o := range b.ops {
		if o.verb == makes {
			e := b.entries[o.entry]
			e.counts = e.row != absent
		}
	}
	for _, e := range b.entries {
		for _, other := range b.entries {
			if e.counts && other.counts && other.seq < e.seq {
				e.before++
			}
		}
	}
}

// lives moves the lives of the orders that were not cancelled into models of their own.
func (b *builder) lives() (all []*model) {
	lives := make([]*model, len(b.entries))
	for i, e := range b.entries {
		if e.row == reserved || e.row == paid {
			alone := *e
			lives[i] = &model{sku: b.sku, units: b.units, entries: []*entry{&alone}, life: true}
			all = append(all, lives[i])
			e.row = reserved // as the SKU's model leaves it
		}
	}
	b.ops = slices.DeleteFunc(b.ops, func(o *op) bool {
		if o.entry < 0 || lives[o.entry] == nil || o.call.kind == Order {
			return false
		}
		lives[o.entry].ops = append(lives[o.entry].ops, o)
		o.entry = 0
		return true
	})
	return all
}

// number sorts the operations and numbers the looks.
func (m *model) number() {
	slices.SortStableFunc(m.ops, func(x, y *op) int { return cmp.Compare(x.began, y.began) })
	for _, o := range m.ops {
		o.look, o.looksBefore = -1, len(m.looks)
		if o.verb != makes && o.verb != ends {
			o.look = len(m.looks)
			m.looks = append(m.looks, o)
		}
	}
}
