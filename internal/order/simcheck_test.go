package order

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"flashsale/internal/stock"
)

// This file is what must hold at the end of a run: the invariants of the audit over the
// simulated rows, and each answer beside its row.

func (w *simWorld) check() {
	db := w.mysql
	for _, sku := range w.skus {
		w.checkSKU(sku)
	}
	for _, a := range w.attempts {
		w.checkAttempt(a)
	}
	for _, o := range db.orders {
		if most := w.maxUnpaid(); most > 0 && w.unpaidAt(o.Customer, o.made, o.made) > most {
			w.violated("%s has more than %d unpaid orders after %s", o.Customer, most, o.Key)
		}
	}
	for _, o := range db.orders {
		if !w.asked[byKey{o.Customer, o.Key}] {
			w.violated("the order of %s %s was asked for by nobody", o.Customer, o.Key)
		}
		switch {
		case w.paid[o.ID] && o.Status != Paid:
			w.violated("the order of %s %s was paid, and is %s", o.Customer, o.Key, o.Status)
		case w.undone[o.ID] && o.Status != Cancelled:
			w.violated("the order of %s %s was cancelled, and is %s", o.Customer, o.Key, o.Status)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.restocks)) {
		if db.restocks[key] == nil {
			w.violated("the answered restock %s was lost", key)
		}
	}
	for name, q := range w.etcd.queues {
		if len(q) > 0 {
			w.violated("%d keys of %s are left in etcd", len(q), name)
		}
	}
}

func (w *simWorld) checkSKU(sku string) {
	db := w.mysql
	row := db.stock[sku]
	var sold int64
	held := map[string]int64{}
	of := slices.DeleteFunc(slices.Clone(db.orders), func(o *simOrder) bool { return o.SKU != sku })
	slices.SortStableFunc(of, func(a, b *simOrder) int { return cmp.Compare(a.Seq, b.Seq) })
	var fence uint64
	for _, o := range of {
		if o.Fence < fence {
			w.violated("%s: %s: token %d at seq %d after token %d", sku, stock.TokensRise, o.Fence, o.Seq, fence)
		}
		fence = o.Fence
		for _, l := range db.levels[sku] {
			if l.at <= o.made && l.fence > o.Fence {
				w.violated("%s: %s: %s %s was made with token %d, after a claim with %d", sku, stock.TokensRise, o.Customer, o.Key, o.Fence, l.fence)
				break
			}
		}
		if o.Fence > row.Fence || o.Seq > row.Seq {
			w.violated("%s: %s: an order has fence %d and seq %d, the row %d and %d", sku, stock.SeqCovers, o.Fence, o.Seq, row.Fence, row.Seq)
		}
		if w.strict() && o.Limit != nil {
			w.checkStrict(of, o)
		}
		if (o.Status == Reserved) != (o.ClosedAt == nil) || (o.Status == Cancelled || o.Status == Expired) != (o.returnedBy != ID{}) {
			w.violated("%s: %s: %s %s is %s", sku, stock.EndsOnce, o.Customer, o.Key, o.Status)
		}
		if o.Status == Paid && !o.ClosedAt.Before(o.ExpiresAt) || o.Status == Expired && o.ClosedAt.Before(o.ExpiresAt) {
			w.violated("%s: %s: %s %s", sku, stock.PaidInTime, o.Customer, o.Key)
		}
		if o.Status != Reserved && o.Status != Paid {
			continue
		}
		sold += int64(o.Quantity)
		held[o.Customer] += int64(o.Quantity)
		if o.Limit != nil && held[o.Customer] > int64(*o.Limit) {
			w.violated("%s: %s: %s holds %d, the limit was %d", sku, stock.WithinLimit, o.Customer, held[o.Customer], *o.Limit)
		}
	}
	if row.Units != row.Available+sold {
		w.violated("%s: %s: %d units, but %d available and %d sold", sku, stock.Conservation, row.Units, row.Available, sold)
	}
	before := uint64(0)
	for _, l := range db.levels[sku] {
		if l.available < 0 {
			w.violated("%s: %s: %d at %s", sku, stock.NonNegative, l.available, l.at)
		}
		if l.fence < before {
			w.violated("%s: the fence fell from %d to %d", sku, before, l.fence)
		}
		before = l.fence
	}
}

// checkStrict adds up what counted against the limit under the strict policy when o was made.
func (w *simWorld) checkStrict(of []*simOrder, o *simOrder) {
	var units int64
	for _, p := range of {
		if p.Customer == o.Customer && p.Seq <= o.Seq && (p.ended == 0 || p.ended > o.made || p.ExpiresAt.After(w.began.Add(o.made))) {
			units += int64(p.Quantity)
		}
	}
	if units > int64(*o.Limit) {
		w.violated("%s: %s has had %d units in one payment window, the limit was %d", o.SKU, o.Customer, units, *o.Limit)
	}
}

// unpaidAt is at least as many as the most unpaid orders that a customer had.
func (w *simWorld) unpaidAt(customer string, from, until time.Duration) (n int) {
	for _, o := range w.mysql.orders {
		if o.Customer == customer && o.made <= until && (o.ClosedAt == nil || o.ClosedAt.After(w.began.Add(from))) {
			n++
		}
	}
	return n
}

// checkAttempt joins an answer to its row.
func (w *simWorld) checkAttempt(a *attempt) {
	own := w.mysql.byID[a.id] // the order that this attempt made
	row := w.mysql.byKey[byKey{a.Customer, a.Key}]
	switch {
	case !a.known || errors.Is(a.err, ErrUnknown):
		if own != nil && errors.Is(a.err, errSimNobody) {
			w.violated("%s was not sent, and made an order", a)
		}
	case a.err == nil:
		o := a.placed.Order
		switch {
		case row == nil || row.ID != o.ID:
			w.violated("%s: the answered order does not exist", a)
		case a.placed.Replayed == (own != nil):
			w.violated("%s: replayed is %v, and the attempt made an order: %v", a, a.placed.Replayed, own != nil)
		case o.SKU != a.SKU || o.Quantity != a.Quantity || o.Status != Reserved || o.Seq != row.Seq || o.Fence != row.Fence:
			w.violated("%s: the answer differs from the row: %s, %s %d, seq %d of %d, token %d of %d", a, o.Status, o.SKU, o.Quantity, o.Seq, row.Seq, o.Fence, row.Fence)
		}
	case own != nil:
		w.violated("%s made an order, but was answered: %v", a, a.err)
	case isAny(a.err, []error{ErrSoldOut, ErrInsufficient}):
		w.checkRefusal(a, row, w.least(a) >= int64(a.Quantity))
	case errors.Is(a.err, ErrCustomerLimit):
		w.checkRefusal(a, row, w.most(a)+int64(a.Quantity) <= w.limit(a))
	case errors.Is(a.err, ErrTooManyUnpaid):
		w.checkRefusal(a, row, w.unpaidAt(a.Customer, a.sent, a.answered) < w.maxUnpaid())
	case isAny(a.err, []error{ErrUnavailable, ErrBusy, ErrInFlight}):
	default:
		w.violated("%s: unexpected answer: %v", a, a.err)
	}
}

func (w *simWorld) checkRefusal(a *attempt, row *simOrder, wrong bool) {
	if row != nil && row.made < a.sent {
		w.violated("%s was refused, but its key had an order: %v", a, a.err)
	}
	if wrong {
		w.violated("%s was refused, though the units were there: %v", a, a.err)
	}
}

// during calls f with each level that the SKU had between the request and the answer.
func (w *simWorld) during(a *attempt, f func(level)) {
	all := w.mysql.levels[a.SKU]
	for i, l := range all {
		if l.at <= a.answered && (i+1 == len(all) || all[i+1].at >= a.sent) {
			f(l)
		}
	}
}

// least is the fewest units that were there.
func (w *simWorld) least(a *attempt) int64 {
	least := int64(noLimit)
	w.during(a, func(l level) { least = min(least, l.available) })
	return least
}

func (w *simWorld) limit(a *attempt) int64 {
	limit := int64(noLimit)
	w.during(a, func(l level) { limit = min(limit, l.limit) })
	return limit
}

// most is at least as many as the most units that the customer held.
func (w *simWorld) most(a *attempt) (most int64) {
	for _, o := range w.mysql.orders {
		if o.SKU == a.SKU && o.Customer == a.Customer && o.made <= a.answered &&
			(o.ended == 0 || o.ended >= a.sent || w.strict() && !o.ExpiresAt.Before(w.began.Add(a.sent))) {
			most += int64(o.Quantity)
		}
	}
	return most
}
