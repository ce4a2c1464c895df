package soak

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/client/wire"
	"flashsale/internal/sleep"
)

// steps are what a world does, by weight. The owner's are left out in a shared
// world, where nobody owns the SKU.
var steps = []struct {
	weight int
	owner  bool
	do     func(*world) error
}{
	{28, false, (*world).place},
	{8, false, (*world).placeTwice},
	{10, false, (*world).placeAgain},
	{3, false, (*world).placeOther},
	{12, false, (*world).pay},
	{10, false, (*world).cancel},
	{6, false, (*world).payAndCancel},
	{4, false, (*world).addUnits},
	{2, false, (*world).addUnitsAgain},
	{6, true, (*world).change},
	{2, true, (*world).changeOutdated},
	{6, false, (*world).readOrder},
	{3, false, (*world).readForeign},
	{3, false, (*world).list},
	{4, false, (*world).readSKU},
	{8, false, (*world).misbehave},
	{6, false, (*world).wait},
}

// step does one of them.
func (w *world) step() error {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	at := w.rng.IntN(total)
	for _, s := range steps {
		if at -= s.weight; at < 0 {
			if s.owner && w.shared {
				return nil
			}
			return s.do(w)
		}
	}
	return nil
}

func (w *world) restocking(r restock) request {
	return request{name: "restock", method: http.MethodPost, path: "/v1/admin/skus/" + w.sku + "/restocks", token: w.adminToken,
		header: keyed(r.key), body: fmt.Sprintf(`{"units":%d}`, r.units)}
}

// addUnits restocks, often several times at once with one key.
func (w *world) addUnits() error {
	w.serial++
	r := restock{key: fmt.Sprintf("%s restock %d", w.name, w.serial), units: int32(1 + w.rng.IntN(4))}
	request := w.restocking(r)
	replies, err := w.together(w.ctx, w.rng, 1+w.rng.IntN(3), request)
	for _, re := range replies {
		w.tell(request, re)
	}
	if err != nil {
		return err
	}
	made := 0
	for _, re := range replies {
		if re.status != http.StatusCreated || !same(re.body, replies[0].body) {
			return unexpected(re, "a restock")
		}
		if !re.replayed() {
			made++
		}
	}
	if made > 1 || made == 0 && !span(replies).lost {
		return breaks(OneOutcome, "%d of the answers to one key say that they restocked", made)
	}
	got, err := decode[wire.Restock](replies[0])
	if err != nil {
		return err
	}
	if got.SKU != w.sku || got.Units != r.units {
		return unexpected(replies[0], "a restock of %d units", r.units)
	}
	r.first = replies[0].body
	w.restocks = append(w.restocks, r)
	w.outdate()
	w.offer.units += int64(r.units)
	w.etag = "" // it has moved
	return nil
}

// addUnitsAgain repeats a restock: its units are there already.
func (w *world) addUnitsAgain() error {
	if len(w.restocks) == 0 {
		return nil
	}
	r := pick(w, w.restocks)
	other := w.rng.IntN(3) == 0
	if other {
		r.units++
	}
	request := w.restocking(r)
	request.name = "restock again"
	re, err := w.call(request)
	switch {
	case err != nil:
		return err
	case other && re.slug != "idempotency-key-reused":
		return unexpected(re, "the key stands with other units")
	case !other && (re.status != http.StatusCreated || !same(re.body, r.first) || !re.replayed()):
		return breaks(SameReplay, "%s replayed as %s (%v): %s", r.first, re.outcome(), re.replayed(), re.body)
	}
	return nil
}

// outdate remembers what replicas may go on showing for a while.
func (w *world) outdate() {
	now := time.Now()
	w.stale = slices.DeleteFunc(w.stale, func(s seen) bool { return s.until.Before(now) })
	w.stale = append(w.stale, seen{w.offer, now.Add(lag)})
}

// change changes price, limit and sale window.
func (w *world) change() error {
	next := offer{units: w.offer.units, price: w.aPrice()}
	if w.rng.IntN(3) == 0 {
		limit := int32(1 + w.rng.IntN(4))
		next.limit = &limit
	}
	soon := time.Now().Add(time.Duration(w.rng.IntN(1500)) * time.Millisecond).UTC().Truncate(time.Millisecond)
	past := soon.Add(-time.Hour)
	switch w.rng.IntN(8) {
	case 0:
		next.starts = &soon
	case 1:
		next.starts, next.ends = &past, &soon
	case 2:
		next.ends = &past
	}
	r := w.put(next)
	ignored := w.rng.IntN(4) == 0
	if ignored {
		asked := next
		asked.units++
		r = w.put(asked)
	}
	if w.etag != "" && w.rng.IntN(2) == 0 {
		r.header = map[string]string{"If-Match": w.etag}
	}
	re, err := w.call(r)
	switch {
	case err != nil:
		return err
	case re.lost:
		return errHazy
	case re.status != http.StatusOK || ignored != (re.header.Get("Warning") != ""):
		return unexpected(re, "a change (Warning: %q)", re.header.Get("Warning"))
	}
	w.outdate()
	w.offer = next
	return w.checkSKU(re, true)
}

// changeOutdated asks for changes of what the SKU is not.
func (w *world) changeOutdated() error {
	other := w.offer
	other.price++
	r := w.put(other)
	r.name = "put SKU outdated"
	r.header = pick(w, []map[string]string{{"If-None-Match": "*"}, {"If-Match": `"0-0"`}})
	re, err := w.call(r)
	if err == nil && re.status != http.StatusPreconditionFailed {
		err = unexpected(re, "with %v", r.header)
	}
	return err
}

func (w *world) reading(by *customer, id uuid.UUID) request {
	return request{name: "read order", method: http.MethodGet, path: "/v1/orders/" + id.String(), token: by.token}
}

func (w *world) readOrder() error {
	if len(w.orders) == 0 {
		return nil
	}
	return w.look(pick(w, w.orders))
}

// look reads an order, and compares it with the model.
func (w *world) look(o *order) error {
	re, err := w.call(w.reading(o.by, o.is.ID))
	if err != nil {
		return err
	}
	if re.status != http.StatusOK {
		return unexpected(re, "an order that is %s", o.is.Status)
	}
	got, err := decode[wire.Order](re)
	if err != nil {
		return err
	}
	return w.compare(o, got, re)
}

// readForeign asks for what is not the customer's.
func (w *world) readForeign() error {
	id, by := uuid.New(), pick(w, w.customers)
	if len(w.orders) > 0 && w.rng.IntN(3) > 0 {
		o := pick(w, w.orders)
		id = o.is.ID
		for by == o.by {
			by = pick(w, w.customers)
		}
	}
	r := w.reading(by, id)
	switch w.rng.IntN(3) {
	case 0:
		r = w.paying(&order{by: by, is: wire.Order{ID: id}}, "")
	case 1:
		r = w.cancelling(&order{by: by, is: wire.Order{ID: id}})
	}
	r.name = "another's order"
	re, err := w.call(r)
	if err == nil && (re.status != http.StatusNotFound || re.slug != "unknown-order") {
		err = unexpected(re, "an order of another customer's, or of none")
	}
	return err
}

// list reads all pages of a customer's orders, and compares them with the model.
func (w *world) list() error {
	by := pick(w, w.customers)
	limit := 1 + w.rng.IntN(9)
	listed := map[uuid.UUID]bool{}
	var cursor, last string
	for {
		r := request{name: "list orders", method: http.MethodGet, token: by.token, path: fmt.Sprintf("/v1/orders?limit=%d", limit)}
		if cursor != "" {
			r.path += "&cursor=" + url.QueryEscape(cursor)
		}
		re, err := w.call(r)
		if err != nil {
			return err
		}
		if re.status != http.StatusOK {
			return unexpected(re, "a list")
		}
		page, err := decode[wire.OrderList](re)
		if err != nil {
			return err
		}
		if len(page.Items) > limit || len(page.Items) == 0 && (cursor != "" || page.NextCursor != nil) {
			return unexpected(re, "pages of %d", limit)
		}
		for _, got := range page.Items {
			if id := got.ID.String(); listed[got.ID] || last != "" && id > last {
				return unexpected(re, "the newest first, each once, after %s", last)
			}
			listed[got.ID], last = true, got.ID.String()
			i := slices.IndexFunc(w.orders, func(o *order) bool { return o.is.ID == got.ID && o.by == by })
			if i < 0 {
				if len(w.ghosts) == 0 {
					return unexpected(re, "order %s is not one of %s's", got.ID, by.name)
				}
				continue
			}
			if err := w.compare(w.orders[i], got, re); err != nil {
				return err
			}
		}
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
	}
	for _, o := range w.orders {
		if o.by == by && !listed[o.is.ID] {
			return breaks(AsModelled, "order %s is not listed", o.is.ID)
		}
	}
	return nil
}

// readSKU reads the SKU, and once more by its ETag.
func (w *world) readSKU() error {
	r := request{name: "read SKU", method: http.MethodGet, path: "/v1/skus/" + w.sku}
	re, err := w.call(r)
	if err != nil {
		return err
	}
	if re.status != http.StatusOK {
		return unexpected(re, "a SKU")
	}
	if err := w.checkSKU(re, false); err != nil {
		return err
	}
	tag := re.header.Get("ETag")
	if tag == "" || !strings.HasPrefix(tag, `"`) {
		return unexpected(re, "an ETag, not %q", tag)
	}
	r.header = map[string]string{"If-None-Match": tag}
	re, err = w.call(r)
	if err == nil && re.status != http.StatusOK && re.status != http.StatusNotModified {
		err = unexpected(re, "a SKU, or 304")
	}
	return err
}

// wait lets time pass: a little, or until a payment window is about to end.
func (w *world) wait() error {
	d := time.Duration(w.rng.IntN(200)) * time.Millisecond
	if open := w.inState(wire.Reserved); len(open) > 0 && w.rng.IntN(2) == 0 {
		d = time.Until(pick(w, open).is.ExpiresAt) + time.Duration(w.rng.IntN(40)-25)*time.Millisecond
	}
	return sleep.For(w.ctx, min(d, w.window))
}
