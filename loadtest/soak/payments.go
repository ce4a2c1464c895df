package soak

import (
	"fmt"
	"net/http"
	"slices"

	"flashsale/client/wire"
)

func (w *world) paying(o *order, reference string) request {
	r := request{name: "pay", method: http.MethodPost, path: "/v1/orders/" + o.is.ID.String() + "/payment", token: o.by.token, body: "{}"}
	if reference != "" {
		r.body = fmt.Sprintf(`{"reference":%q}`, reference)
	}
	return r
}

// randomReference returns no reference, the order's own, or a new one.
func (w *world) randomReference(o *order) string {
	w.serial++
	switch {
	case w.rng.IntN(4) == 0:
		return ""
	case w.rng.IntN(2) == 0:
		return o.reference
	}
	return fmt.Sprintf("payment %d of %s", w.serial, w.name) // a rush has several worlds
}

func (w *world) pay(o *order) {
	reference := w.randomReference(o)
	re := w.call(w.paying(o, reference))
	if re.status == http.StatusOK {
		w.paid(o, re, reference)
		return
	}
	want := map[wire.OrderStatus]string{wire.Paid: "already-paid", wire.Cancelled: "order-cancelled", wire.Expired: "payment-window-over"}[o.is.Status]
	switch {
	case o.is.Status == wire.Paid && (reference == "" || o.reference == "" || reference == o.reference):
		unexpected(re, "want the same answer to the same payment")
	case o.is.Status == wire.Reserved && re.slug == "payment-window-over":
		if re.done.Add(rounding).Before(o.is.ExpiresAt) {
			unexpected(re, "the window is open until %s", o.is.ExpiresAt)
		}
	case re.slug != want:
		unexpected(re, "an order that is %s", o.is.Status)
	}
	o.isLate(reference)
}

func (o *order) isLate(reference string) {
	if reference != "" && !slices.Contains(o.late, reference) {
		o.late = append(o.late, reference)
	}
}

func (w *world) paid(o *order, re reply, reference string) {
	switch {
	case o.is.Status == wire.Paid && (reference == "" || reference == o.reference):
		w.closedAgain(o, re)
		return
	case o.is.Status == wire.Paid && o.reference == "": // this call adds the reference
		got := decode[wire.Order](re)
		o.reference, o.final = reference, re.body
		w.compare(o, got, re)
		return
	case o.is.Status != wire.Reserved:
		breaks(WindowHolds, "an order that was %s is now paid: %s", o.is.Status, re.body)
	case re.sent.After(o.is.ExpiresAt.Add(rounding)):
		breaks(WindowHolds, "paid at %s: %s", re.sent.UTC(), re.body)
	}
	o.reference = reference
	w.closed(o, re, wire.Paid)
}
