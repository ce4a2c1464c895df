package soak

import (
	"net/http"
	"time"

	"flashsale/client/wire"
	"flashsale/internal/sleep"
)

// sweptWithin is how long after its window an order may stay reserved: the replica that
// sweeps may have just been killed, and the next one waits for its lease.
const sweptWithin = 45 * time.Second

// close waits for the final state of all orders and buys what is left: exactly the units
// that were not sold or were returned. Then it withdraws the SKU.
func (w *world) close() {
	for i := len(w.maybe) - 1; i >= 0; i-- {
		w.retryMaybe(i)
	}
	if !w.shared {
		next := offer{units: w.offer.units, price: w.offer.price} // without limit and sale window
		w.put(w.putting(next), next, http.StatusOK, false)
	}
	for _, o := range w.orders {
		w.await(o)
	}
	if !w.shared && len(w.maybe) == 0 {
		w.buyAll()
	}
	if !w.shared {
		w.withdraw()
	}
}

// await reads an order until it is no longer reserved.
func (w *world) await(o *order) {
	for o.is.Status == wire.Reserved {
		if time.Since(o.is.ExpiresAt) > sweptWithin {
			breaks(Expires, "order %s is still reserved %s after its window", o.is.ID, sweptWithin)
		}
		w.check(sleep.For(w.ctx, max(time.Until(o.is.ExpiresAt), 50*time.Millisecond)))
		w.look(o)
	}
}

// buyAll buys all units that are left with one order, and cancels it.
func (w *world) buyAll() {
	left := w.left(w.held(nil, time.Now(), time.Now()))
	if left.least != left.most {
		breaks(AsModelled, "all orders are final, but the units left are uncertain: %+v", left)
	}
	if left.least == 0 {
		w.buy(1, "all units are sold")
		return
	}
	all := w.buy(int32(left.least), "units are left")
	if all.first == nil { // refused, or its outcome is uncertain
		return
	}
	w.buy(1, "all units are sold")
	re := w.call(w.cancelling(all))
	if re.status == http.StatusOK {
		w.closed(all, re, wire.Cancelled)
		return
	}
	w.await(all) // the window ended first
}

func (w *world) buy(n int32, state string) *order {
	o := w.newOrder()
	o.quantity, o.shown = n, nil
	re := w.call(w.placing(o))
	if possible := w.possible(o, re.sent, re.done); !possible.allow(re) {
		breaks(NothingLeft, "%s, but the answer to an order of %d is %s; possible are %+v", state, n, re.outcome(), possible)
	}
	w.placed(o, re)
	return o
}

// withdraw takes the SKU off sale. No order is accepted after that, and those that were keep
// their answers.
func (w *world) withdraw() {
	r := request{name: "withdraw SKU", method: http.MethodDelete, path: "/v1/admin/skus/" + w.sku, token: w.adminToken}
	for range 2 {
		w.expect(r, "want the SKU withdrawn, also again", http.StatusNoContent)
	}
	if re := w.call(w.placing(w.newOrder())); re.slug != "unknown-sku" {
		unexpected(re, "the SKU is withdrawn")
	}
	if len(w.orders) > 0 {
		o := pick(w, w.orders)
		checkReplay(w.call(w.placing(o)), o.first)
	}
}
