package soak

import (
	"net/http"
	"time"

	"flashsale/client/wire"
	"flashsale/internal/sleep"
)

// sweptWithin is how long after its window an order may stay reserved: the replica
// that sweeps may have just been killed, and its successor waits for its lease.
const sweptWithin = 45 * time.Second

// close sees all orders to their end, and buys what is left: no more, and no less,
// than what was not sold and what was given back.
func (w *world) close() error {
	for i := len(w.ghosts) - 1; i >= 0; i-- {
		if err := w.exorcise(i); err != nil {
			return err
		}
	}
	if !w.shared {
		if err := w.open(); err != nil {
			return err
		}
	}
	for _, o := range w.orders {
		if err := w.await(o); err != nil {
			return err
		}
	}
	if w.shared || len(w.ghosts) > 0 {
		return nil
	}
	return w.buyAll()
}

// open takes limit and sale window away.
func (w *world) open() error {
	next := offer{units: w.offer.units, price: w.offer.price}
	re, err := w.call(w.put(next))
	switch {
	case err != nil:
		return err
	case re.lost:
		return errHazy
	case re.status != http.StatusOK:
		return unexpected(re, "a change")
	}
	w.offer = next
	return w.checkSKU(re, true)
}

// await reads an order until it is not reserved.
func (w *world) await(o *order) error {
	for o.is.Status == wire.Reserved {
		if time.Since(o.is.ExpiresAt) > sweptWithin {
			return breaks(Expires, "order %s is reserved %s after its window", o.is.ID, sweptWithin)
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

// buyAll buys all that is left, in one order, and gives it back.
func (w *world) buyAll() error {
	left := w.left(w.held(nil, time.Now(), time.Now()))
	if left.least != left.most {
		return breaks(AsModelled, "all orders have ended, and %+v are left", left)
	}
	if left.least == 0 {
		return w.refused()
	}
	all, err := w.take(int32(left.least))
	if err != nil || all == nil {
		return err
	}
	if err := w.refused(); err != nil {
		return err
	}
	re, err := w.call(w.cancelling(all))
	if err != nil {
		return err
	}
	if re.status == http.StatusOK {
		return w.closed(all, re, wire.Cancelled)
	}
	return w.await(all) // it took too long
}

// take buys n units, which are there. It returns no order where one may be on its
// way.
func (w *world) take(n int32) (*order, error) {
	o := w.newOrder()
	o.quantity, o.shown = n, nil
	re, err := w.call(w.placing(o))
	if err != nil {
		return nil, err
	}
	if err := w.placed(o, re); err != nil {
		return nil, breaks(NothingLeft, "%d units are left, and cannot be bought: %s", n, err.Error())
	}
	if o.first == nil {
		return nil, nil
	}
	return o, nil
}

// refused asks for a unit where none is left.
func (w *world) refused() error {
	o := w.newOrder()
	o.quantity, o.shown = 1, nil
	re, err := w.call(w.placing(o))
	if err != nil {
		return err
	}
	if err := w.placed(o, re); err != nil {
		return breaks(NothingLeft, "all units are sold: %s", err.Error())
	}
	return nil
}
