package soak

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"time"

	"flashsale/client/wire"
)

// rounding is how far the database's clock may seem to be from ours. Both are the same
// machine's, but the database cuts times to microseconds and keeps the time constant
// within a statement.
const rounding = 10 * time.Millisecond

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

func (w *world) place() {
	o := w.newOrder()
	re := w.call(w.placing(o))
	w.placed(o, re)
}

// placeTwice sends the same new order several times at once.
func (w *world) placeTwice() {
	o := w.newOrder()
	r := w.placing(o)
	r.name = "place at once"
	replies := w.atOnce(slices.Repeat([]request{r}, 2+w.rng.IntN(3))...)
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
		if !bytes.Equal(promise.body, re.body) {
			breaks(OneOutcome, "two answers to one key: %s and %s", promise.body, re.body)
		}
		if !re.replayed() {
			made++
		}
	}
	if made > 1 || promise != nil && made == 0 && !all.lost {
		breaks(OneOutcome, "%d of the answers to one key say that they made the order", made)
	}
	possible := w.possible(o, all.sent, all.done)
	for _, re := range replies {
		if re.status != http.StatusCreated && !possible.refusals[re.slug] {
			unexpected(re, "possible are %+v", possible)
		}
	}
	if promise == nil {
		if all.lost {
			w.maybe = append(w.maybe, o)
		}
		return
	}
	all.status, all.header, all.body = promise.status, promise.header, promise.body
	all.lost = true // this answer may be a replay
	w.placed(o, all)
}

// span returns a reply that covers the time of all replies.
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

func (w *world) placed(o *order, re reply) {
	possible := w.possible(o, re.sent, re.done)
	switch {
	case !possible.allow(re):
		unexpected(re, "possible for an order of %d units are %+v", o.quantity, possible)
	case re.status != http.StatusCreated:
		if re.lost {
			w.maybe = append(w.maybe, o)
		}
		return
	case re.replayed() && !re.lost:
		unexpected(re, "a new key must not be a replay")
	}
	w.promised(o, re)
	created := o.is.CreatedAt
	if o.is.PriceCents != w.offer.price || created.Before(w.deskTime(re.sent)) || created.After(re.done.Add(rounding)) {
		unexpected(re, "want an order made between %s and %s at %d cents", w.deskTime(re.sent).UTC(), re.done.UTC(), w.offer.price)
	}
}

// promised adds an order to the model and checks the answer that promises it.
func (w *world) promised(o *order, re reply) {
	got := decode[wire.Order](re)
	o.is, o.first = got, re.body
	w.orders = append(w.orders, o)
	window := got.ExpiresAt.Sub(got.CreatedAt) - w.window
	status := wire.Reserved
	if got.PriceCents == 0 { // an order without a price is paid at once
		status, o.final = wire.Paid, re.body
	}
	if got.SKU != w.sku || got.Quantity != o.quantity || got.Status != status || got.TotalCents != got.PriceCents*int64(o.quantity) ||
		got.Currency != "EUR" || (got.ClosedAt == nil) != (status == wire.Reserved) || window.Abs() > time.Millisecond ||
		re.header.Get("Location") != "/v1/orders/"+got.ID.String() || re.header.Get("X-Replica") == "" {
		unexpected(re, "want an order of %d units of %s (Location: %s)", o.quantity, w.sku, re.header.Get("Location"))
	}
}

// placeAgain repeats the request of an order. Whatever happened to the order or the SKU
// since then, the answer must be the first one.
func (w *world) placeAgain() {
	if len(w.maybe) > 0 && w.rng.IntN(2) == 0 {
		w.retryMaybe(w.rng.IntN(len(w.maybe)))
		return
	}
	if len(w.orders) == 0 {
		return
	}
	o := pick(w, w.orders)
	r := w.placing(o)
	r.name = "place again"
	switch w.rng.IntN(3) {
	case 0:
		r.header = keyed(o.key) // the same key without quotes
	case 1:
		if o.shown == nil {
			r.body = fmt.Sprintf("{ \"quantity\" : %d.0,\n\"sku\":%q}", o.quantity, w.sku)
		}
	}
	re := w.call(r)
	checkReplay(re, o.first)
}

func checkReplay(re reply, first []byte) {
	if re.status != http.StatusCreated || !bytes.Equal(re.body, first) || !re.replayed() {
		breaks(SameReplay, "%s was replayed as %s (Idempotent-Replayed: %v): %s", first, re.outcome(), re.replayed(), re.body)
	}
}

// retryMaybe repeats an order that a try without an answer may still make.
func (w *world) retryMaybe(i int) {
	o := w.maybe[i]
	re := w.call(w.placing(o))
	possible := w.possible(o, re.sent, re.done)
	switch {
	case re.status == http.StatusCreated && (possible.accepted || re.replayed()):
		w.maybe = slices.Delete(w.maybe, i, i+1)
		w.promised(o, re)
	case !possible.refusals[re.slug]:
		unexpected(re, "possible for an order of %d units are a replay and %+v", o.quantity, possible)
	}
}

// placeOther sends another order with a key that is in use.
func (w *world) placeOther(o *order) {
	other := *o
	other.quantity++
	r := w.placing(&other)
	r.name = "place other body"
	if re := w.call(r); re.slug != "idempotency-key-reused" {
		unexpected(re, "key %q is in use with another body", o.key)
	}
}

func (w *world) cancelling(o *order) request {
	return request{name: "cancel", method: http.MethodPost, path: "/v1/orders/" + o.is.ID.String() + "/cancellation", token: o.by.token}
}

func (w *world) cancel(o *order) {
	re := w.call(w.cancelling(o))
	switch {
	case re.status == http.StatusOK && o.is.Status == wire.Cancelled:
		w.closedAgain(o, re)
	case re.status == http.StatusOK && o.is.Status == wire.Reserved:
		w.closed(o, re, wire.Cancelled)
	case re.slug == "already-paid" && o.is.Status == wire.Paid, re.slug == "order-expired" && o.is.Status == wire.Expired:
	case re.slug == "order-expired" && o.is.Status == wire.Reserved && !re.done.Add(rounding).Before(o.is.ExpiresAt):
		o.is.Status = wire.Expired
	default:
		unexpected(re, "the order is %s, in a window until %s", o.is.Status, o.is.ExpiresAt)
	}
}

// payAndCancel does both at once: exactly one must succeed.
func (w *world) payAndCancel() {
	open := w.inState(wire.Reserved)
	if len(open) == 0 {
		return
	}
	o := pick(w, open)
	reference := w.randomReference(o)
	replies := w.atOnce(w.paying(o, reference), w.cancelling(o))
	pay, cancel, all := replies[0], replies[1], span(replies)
	over := !all.done.Add(rounding).Before(o.is.ExpiresAt)
	switch {
	case pay.status == http.StatusOK && cancel.slug == "already-paid":
		w.paid(o, pay, reference)
	case cancel.status == http.StatusOK && (pay.slug == "order-cancelled" || over && pay.slug == "payment-window-over"):
		o.isLate(reference)
		w.closed(o, cancel, wire.Cancelled)
	case over && pay.slug == "payment-window-over" && cancel.slug == "order-expired":
		o.isLate(reference)
		o.is.Status = wire.Expired
	default:
		breaks(AsModelled, "an order was paid and cancelled at once, in a window until %s: %s and %s", o.is.ExpiresAt, pay.outcome(), cancel.outcome())
	}
}

func (w *world) inState(status wire.OrderStatus) []*order {
	var list []*order
	for _, o := range w.orders {
		if o.is.Status == status {
			list = append(list, o)
		}
	}
	return list
}

func (w *world) closed(o *order, re reply, status wire.OrderStatus) {
	got := decode[wire.Order](re)
	o.is.Status, o.final = status, re.body
	at := got.ClosedAt
	if at == nil || at.Before(re.sent.Add(-rounding)) || at.After(re.done.Add(rounding)) {
		unexpected(re, "want a time of closing between %s and %s", re.sent.UTC(), re.done.UTC())
	}
	w.compare(o, got, re)
}

// closedAgain checks the answer to a repeated payment or cancellation.
func (w *world) closedAgain(o *order, re reply) {
	if !bytes.Equal(re.body, o.final) {
		breaks(SameReplay, "%s was repeated as %s", o.final, re.body)
	}
}

// compare compares an order that was read with the model, which learns about its expiry.
func (w *world) compare(o *order, got wire.Order, re reply) {
	if got.Status == wire.Expired && o.is.Status == wire.Reserved {
		if re.done.Add(rounding).Before(o.is.ExpiresAt) {
			breaks(Expires, "the order expired before %s: %s", o.is.ExpiresAt, re.body)
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
		unexpected(re, "want order %s of %d units, %s, with payment %q", o.is.ID, o.quantity, o.is.Status, o.reference)
	}
}
