package soak

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"flashsale/client/wire"
)

// rounding is how far the database's clock may seem to be from ours: it is the
// same machine's, cut to microseconds, and stands still within a statement.
const rounding = 10 * time.Millisecond

// newOrder is what a customer is about to ask for; some say at which price.
func (w *world) newOrder() *order {
	w.serial++
	o := &order{by: pick(w, w.customers), key: fmt.Sprintf("%s key %d", w.sku, w.serial), quantity: int32(1 + w.rng.IntN(3))}
	if w.rng.IntN(20) == 0 {
		o.quantity = 1 << w.rng.IntN(31)
	}
	if w.rng.IntN(4) == 0 {
		o.shown = new(w.offer.price)
		if w.rng.IntN(4) == 0 {
			*o.shown++
		}
	}
	return o
}

func pick[T any](w *world, list []T) T { return list[w.rng.IntN(len(list))] }

func (w *world) placing(o *order) request {
	body := wire.OrderRequest{SKU: w.sku, Quantity: o.quantity, PriceCents: o.shown}
	return request{name: "place", method: http.MethodPost, path: "/v1/orders", token: o.by.token, header: keyed(`"` + o.key + `"`), body: encode(body)}
}

// place asks for a new order.
func (w *world) place() error {
	o := w.newOrder()
	re, err := w.call(w.placing(o))
	if err != nil {
		return err
	}
	return w.placed(o, re)
}

// placeTwice asks for a new order several times at once.
func (w *world) placeTwice() error {
	o := w.newOrder()
	r := w.placing(o)
	r.name = "place at once"
	replies, err := w.together(w.ctx, w.rng, 2+w.rng.IntN(3), r)
	for _, re := range replies {
		w.tell(r, re)
	}
	if err != nil {
		return err
	}
	all := span(replies)
	var promise *reply
	made := 0
	for i := range replies {
		re := &replies[i]
		if re.status != http.StatusCreated {
			continue
		}
		if promise == nil {
			promise = re
		}
		if !same(promise.body, re.body) {
			return breaks(OneOutcome, "two answers to one key: %s and %s", promise.body, re.body)
		}
		if !re.replayed() {
			made++
		}
	}
	if made > 1 || promise != nil && made == 0 && !all.lost {
		return breaks(OneOutcome, "%d of the answers to one key say that they made the order", made)
	}
	possible := w.prospectOf(o, all.sent, all.done)
	for _, re := range replies {
		if re.status != http.StatusCreated && !possible.refusals[re.slug] {
			return unexpected(re, "with %+v", possible)
		}
	}
	if promise == nil {
		if all.lost {
			w.ghosts = append(w.ghosts, o)
		}
		return nil
	}
	all.status, all.header, all.body = promise.status, promise.header, promise.body
	all.lost = true // this one may well be a replay
	return w.placed(o, all)
}

// span is around all replies.
func span(replies []reply) (all reply) {
	all = reply{sent: replies[0].sent, done: replies[0].done}
	for _, re := range replies {
		if re.sent.Before(all.sent) {
			all.sent = re.sent
		}
		if re.done.After(all.done) {
			all.done = re.done
		}
		all.lost = all.lost || re.lost
	}
	return all
}

// placed looks at the answer to a new order.
func (w *world) placed(o *order, re reply) error {
	possible := w.prospectOf(o, re.sent, re.done)
	switch {
	case re.status != http.StatusCreated && possible.refusals[re.slug]:
		if re.lost {
			w.ghosts = append(w.ghosts, o)
		}
		return nil
	case re.status != http.StatusCreated || !possible.accepted:
		return unexpected(re, "%d units with %+v", o.quantity, possible)
	case re.replayed() && !re.lost:
		return unexpected(re, "a new key is no replay")
	}
	if err := w.promised(o, re); err != nil {
		return err
	}
	created := o.is.CreatedAt
	if o.is.PriceCents != w.offer.price || created.Before(w.deskTime(re.sent)) || created.After(re.done.Add(rounding)) {
		return unexpected(re, "an order of between %s and %s at %d cents", w.deskTime(re.sent).UTC(), re.done.UTC(), w.offer.price)
	}
	return nil
}

// promised takes an order over from the answer that promises it.
func (w *world) promised(o *order, re reply) error {
	got, err := decode[wire.Order](re)
	if err != nil {
		return err
	}
	o.is, o.first = got, re.body
	w.orders = append(w.orders, o)
	window := got.ExpiresAt.Sub(got.CreatedAt) - w.window
	status := wire.Reserved
	if got.PriceCents == 0 { // there is nothing to pay
		status, o.final = wire.Paid, re.body
	}
	if got.SKU != w.sku || got.Quantity != o.quantity || got.Status != status || got.TotalCents != got.PriceCents*int64(o.quantity) ||
		got.Currency != "EUR" || (got.ClosedAt == nil) != (status == wire.Reserved) || window.Abs() > time.Millisecond ||
		re.header.Get("Location") != "/v1/orders/"+got.ID.String() || re.header.Get("X-Replica") == "" {
		return unexpected(re, "an order of %d units of %s (Location: %s)", o.quantity, w.sku, re.header.Get("Location"))
	}
	return nil
}

// placeAgain repeats an order that stands: whatever has become of it or of the
// SKU, the answer is the first one.
func (w *world) placeAgain() error {
	if len(w.ghosts) > 0 && w.rng.IntN(2) == 0 {
		return w.exorcise(w.rng.IntN(len(w.ghosts)))
	}
	if len(w.orders) == 0 {
		return nil
	}
	o := pick(w, w.orders)
	r := w.placing(o)
	r.name = "place again"
	switch w.rng.IntN(3) {
	case 0:
		r.header = keyed(o.key) // bare, which is the same key
	case 1:
		if o.shown == nil {
			r.body = fmt.Sprintf("{ \"quantity\" : %d.0,\n\"sku\":%q}", o.quantity, w.sku)
		}
	}
	re, err := w.call(r)
	if err != nil {
		return err
	}
	if re.status != http.StatusCreated || !same(re.body, o.first) || !re.replayed() {
		return breaks(SameReplay, "%s replayed as %s (%v): %s", o.first, re.outcome(), re.replayed(), re.body)
	}
	return nil
}

// exorcise repeats an order of which an unanswered try may be on its way.
func (w *world) exorcise(i int) error {
	o := w.ghosts[i]
	re, err := w.call(w.placing(o))
	if err != nil {
		return err
	}
	possible := w.prospectOf(o, re.sent, re.done)
	switch {
	case re.status == http.StatusCreated && (possible.accepted || re.replayed()):
		w.ghosts = slices.Delete(w.ghosts, i, i+1)
		return w.promised(o, re)
	case possible.refusals[re.slug]:
		return nil
	}
	return unexpected(re, "%d units with %+v, or an order that stands", o.quantity, possible)
}

// placeOther sends another order with a key that stands.
func (w *world) placeOther() error {
	if len(w.orders) == 0 {
		return nil
	}
	o := *pick(w, w.orders)
	o.quantity++
	r := w.placing(&o)
	r.name = "place other body"
	re, err := w.call(r)
	if err == nil && (re.status != http.StatusUnprocessableEntity || re.slug != "idempotency-key-reused") {
		err = unexpected(re, "key %q stands with another body", o.key)
	}
	return err
}

func (w *world) cancelling(o *order) request {
	return request{name: "cancel", method: http.MethodPost, path: "/v1/orders/" + o.is.ID.String() + "/cancellation", token: o.by.token}
}

// cancel cancels an order, in whatever state it is.
func (w *world) cancel() error {
	if len(w.orders) == 0 {
		return nil
	}
	o := pick(w, w.orders)
	re, err := w.call(w.cancelling(o))
	if err != nil {
		return err
	}
	switch {
	case re.status == http.StatusOK && o.is.Status == wire.Cancelled:
		return w.closedAgain(o, re)
	case re.status == http.StatusOK && o.is.Status == wire.Reserved:
		return w.closed(o, re, wire.Cancelled)
	case re.slug == "already-paid" && o.is.Status == wire.Paid, re.slug == "order-expired" && o.is.Status == wire.Expired:
		return nil
	case re.slug == "order-expired" && o.is.Status == wire.Reserved && !re.done.Add(rounding).Before(o.is.ExpiresAt):
		o.is.Status = wire.Expired
		return nil
	}
	return unexpected(re, "an order that is %s until %s", o.is.Status, o.is.ExpiresAt)
}

// payAndCancel does both at once: one of them wins.
func (w *world) payAndCancel() error {
	open := w.inState(wire.Reserved)
	if len(open) == 0 {
		return nil
	}
	o := pick(w, open)
	reference := w.aReference(o)
	requests := []request{w.paying(o, reference), w.cancelling(o)}
	replies, err := w.atOnce(w.ctx, w.rng, requests...)
	for i, re := range replies {
		w.tell(requests[i], re)
	}
	if err != nil {
		return err
	}
	pay, cancel, all := replies[0], replies[1], span(replies)
	over := !all.done.Add(rounding).Before(o.is.ExpiresAt)
	switch {
	case pay.status == http.StatusOK && cancel.slug == "already-paid":
		return w.paid(o, pay, reference)
	case cancel.status == http.StatusOK && (pay.slug == "order-cancelled" || over && pay.slug == "payment-window-over"):
		o.isLate(reference)
		return w.closed(o, cancel, wire.Cancelled)
	case over && pay.slug == "payment-window-over" && cancel.slug == "order-expired":
		o.isLate(reference)
		o.is.Status = wire.Expired
		return nil
	}
	return breaks(AsModelled, "paid and cancelled at once, until %s: %s and %s", o.is.ExpiresAt, pay.outcome(), cancel.outcome())
}

// inState are the orders that are known to be in a state.
func (w *world) inState(status wire.OrderStatus) []*order {
	var list []*order
	for _, o := range w.orders {
		if o.is.Status == status {
			list = append(list, o)
		}
	}
	return list
}

// closed looks at the answer that ended an order's life.
func (w *world) closed(o *order, re reply, status wire.OrderStatus) error {
	got, err := decode[wire.Order](re)
	if err != nil {
		return err
	}
	o.is.Status, o.final = status, re.body
	at := got.ClosedAt
	if at == nil || at.Before(re.sent.Add(-rounding)) || at.After(re.done.Add(rounding)) {
		return unexpected(re, "closed between %s and %s", re.sent.UTC(), re.done.UTC())
	}
	return w.compare(o, got, re)
}

// closedAgain looks at the answer to a repeated payment or cancellation.
func (w *world) closedAgain(o *order, re reply) error {
	if !same(re.body, o.final) {
		return breaks(SameReplay, "%s repeated as %s", o.final, re.body)
	}
	return nil
}

// compare holds an order as it is read against the model, which learns of expiry.
func (w *world) compare(o *order, got wire.Order, re reply) error {
	if got.Status == wire.Expired && o.is.Status == wire.Reserved {
		if re.done.Add(rounding).Before(o.is.ExpiresAt) {
			return breaks(Expires, "expired before %s: %s", o.is.ExpiresAt, re.body)
		}
		o.is.Status = wire.Expired
	}
	reference := ""
	if got.PaymentReference != nil {
		reference = *got.PaymentReference
	}
	if got.ID != o.is.ID || got.SKU != w.sku || got.Quantity != o.quantity || got.Status != o.is.Status || got.PriceCents != o.is.PriceCents ||
		got.TotalCents != o.is.TotalCents || !got.CreatedAt.Equal(o.is.CreatedAt) || !got.ExpiresAt.Equal(o.is.ExpiresAt) ||
		reference != o.reference || (got.ClosedAt == nil) != (got.Status == wire.Reserved) {
		return unexpected(re, "order %s of %d units, %s, paid by %q", o.is.ID, o.quantity, o.is.Status, o.reference)
	}
	return nil
}
