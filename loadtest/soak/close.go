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
// that were not sold or were returned.
func (w *world) close() error {
	for i := len(w.maybe) - 1; i >= 0; i-- {
		if err := w.retryMaybe(i); err != nil {
			return err
		}
	}
	if !w.shared {
		next := offer{units: w.offer.units, price: w.offer.price} // without limit and sale window
		if err := w.put(w.putting(next), next, http.StatusOK, false); err != nil {
			return err
		}
	}
	for _, o := range w.orders {
		if err := w.await(o); err != nil {
			return err
		}
	}
	if w.shared || len(w.maybe) > 0 {
		return nil
	}
	return w.buyAll()
}

// await reads an order until it is no longer reserved.
func (w *world) await(o *order) error {
	for o.is.Status == wire.Reserved {
		if time.Since(o.is.ExpiresAt) > sweptWithin {
			return breaks(Expires, "order %s is still reserved %s after its window", o.is.ID, sweptWithin)
		}
		if err := sleep.For(w.ctx, max(time.Until(o.is.ExpiresAt), 50*time.Millisecond)); err != nil {
			return err
		}
		if err := w.look(o); err != nil {
			return err
		}
	}
	return nil
}

// buyAll buys all units that are left with one order, and cancels it.
func (w *world) buyAll() error {
	left := w.left(w.held(nil, time.Now(), time.Now()))
	if left.least != left.most {
		return breaks(AsModelled, "all orders are final, but the units left are uncertain: %+v", left)
	}
	if left.least == 0 {
		_, err := w.buy(1, "all units are sold")
		return err
	}
	all, err := w.buy(int32(left.least), "units are left")
	if err != nil || all == nil {
		return err
	}
	if _, err := w.buy(1, "all units are sold"); err != nil {
		return err
	}
	re, err := w.call(w.cancelling(all))
	if err != nil {
		return err
	}
	if re.status == http.StatusOK {
		return w.closed(all, re, wire.Cancelled)
	}
	return w.await(all) // the window ended first
}

// buy orders n units. It returns nil if the order was refused, or if its outcome is
// uncertain.
func (w *world) buy(n int32, state string) (*order, error) {
	o := w.newOrder()
	o.quantity, o.shown = n, nil
	re, err := w.call(w.placing(o))
	if err != nil {
		return nil, err
	}
	if err := w.placed(o, re); err != nil {
		return nil, breaks(NothingLeft, "%s; an order of %d: %s", state, n, err.Error())
	}
	if o.first == nil {
		return nil, nil
	}
	return o, nil
}
