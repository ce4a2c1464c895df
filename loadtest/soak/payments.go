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
	return fmt.Sprintf("payment %d of %s", w.serial, w.sku)
}

func (w *world) pay(o *order) error {
	reference := w.randomReference(o)
	re, err := w.call(w.paying(o, reference))
	if err != nil {
		return err
	}
	if re.status == http.StatusOK {
		return w.paid(o, re, reference)
	}
	want := map[wire.OrderStatus]string{wire.Paid: "already-paid", wire.Cancelled: "order-cancelled", wire.Expired: "payment-window-over"}[o.is.Status]
	switch {
	case o.is.Status == wire.Paid && (reference == "" || o.reference == "" || reference == o.reference):
		return unexpected(re, "want the same answer to the same payment")
	case o.is.Status == wire.Reserved && re.slug == "payment-window-over":
		if re.done.Add(rounding).Before(o.is.ExpiresAt) {
			return unexpected(re, "the window is open until %s", o.is.ExpiresAt)
		}
	case re.slug != want:
		return unexpected(re, "an order that is %s", o.is.Status)
	}
	o.isLate(reference)
	return nil
}

// isLate remembers a payment that came too late.
func (o *order) isLate(reference string) {
	if reference != "" && !slices.Contains(o.late, reference) {
		o.late = append(o.late, reference)
	}
}

func (w *world) paid(o *order, re reply, reference string) error {
	switch {
	case o.is.Status == wire.Paid && (reference == "" || reference == o.reference):
		return w.closedAgain(o, re)
	case o.is.Status == wire.Paid && o.reference == "": // this call adds the reference
		got, err := decode[wire.Order](re)
		if err != nil {
			return err
		}
		o.reference, o.final = reference, re.body
		return w.compare(o, got, re)
	case o.is.Status != wire.Reserved:
		return breaks(WindowHolds, "an order that was %s is now paid: %s", o.is.Status, re.body)
	case re.sent.After(o.is.ExpiresAt.Add(rounding)):
		return breaks(WindowHolds, "paid at %s: %s", re.sent.UTC(), re.body)
	}
	o.reference = reference
	return w.closed(o, re, wire.Paid)
}
