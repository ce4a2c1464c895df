package soak

import (
	"bytes"
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

// steps are the possible steps of a world, with weights. A shared world skips those of the
// owner.
var steps = []struct {
	weight int
	owner  bool
	do     func(*world)
}{
	{28, false, (*world).place},
	{8, false, (*world).placeTwice},
	{10, false, (*world).placeAgain},
	{3, false, onOrder((*world).placeOther)},
	{12, false, onOrder((*world).pay)},
	{10, false, onOrder((*world).cancel)},
	{6, false, (*world).payAndCancel},
	{4, false, (*world).addUnits},
	{2, false, (*world).addUnitsAgain},
	{6, true, (*world).change},
	{2, true, (*world).changeOutdated},
	{6, false, onOrder((*world).look)},
	{3, false, (*world).readForeign},
	{3, false, (*world).list},
	{4, false, (*world).readSKU},
	{8, false, (*world).sendBadRequest},
	{6, false, (*world).wait},
}

// onOrder returns a step for a random order. It does nothing while there are none.
func onOrder(do func(*world, *order)) func(*world) {
	return func(w *world) {
		if len(w.orders) > 0 {
			do(w, pick(w, w.orders))
		}
	}
}

func (w *world) step() {
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	at := w.rng.IntN(total)
	for _, s := range steps {
		if at -= s.weight; at < 0 {
			if !s.owner || !w.shared {
				s.do(w)
			}
			return
		}
	}
}

func (w *world) restocking(r restock) request {
	return request{name: "restock", method: http.MethodPost, path: "/v1/admin/skus/" + w.sku + "/restocks", token: w.adminToken,
		header: keyed(r.key), body: fmt.Sprintf(`{"units":%d}`, r.units)}
}

// addUnits restocks, often with several requests at once that have the same key.
func (w *world) addUnits() {
	w.serial++
	r := restock{key: fmt.Sprintf("%s restock %d", w.name, w.serial), units: int32(1 + w.rng.IntN(4))}
	req := w.restocking(r)
	replies := w.atOnce(slices.Repeat([]request{req}, 1+w.rng.IntN(3))...)
	made := 0
	for _, re := range replies {
		if re.status != http.StatusCreated || !bytes.Equal(re.body, replies[0].body) {
			unexpected(re, "want a restock")
		}
		if !re.replayed() {
			made++
		}
	}
	if made > 1 || made == 0 && !span(replies).lost {
		breaks(OneOutcome, "%d of the answers to one key say that they restocked", made)
	}
	got := decode[wire.Restock](replies[0])
	if got.SKU != w.sku || got.Units != r.units {
		unexpected(replies[0], "want a restock of %d units", r.units)
	}
	r.first = replies[0].body
	w.restocks = append(w.restocks, r)
	w.outdate()
	w.offer.units += int64(r.units)
	w.etag = "" // the restock changed it
}

func (w *world) addUnitsAgain() {
	if len(w.restocks) == 0 {
		return
	}
	r := pick(w, w.restocks)
	other := w.rng.IntN(3) == 0
	if other {
		r.units++
	}
	req := w.restocking(r)
	req.name = "restock again"
	re := w.call(req)
	switch {
	case !other:
		checkReplay(re, r.first)
	case re.slug != "idempotency-key-reused":
		unexpected(re, "the key is in use with other units")
	}
}

func (w *world) change() {
	next := offer{units: w.offer.units, price: w.randomPrice(), limit: w.randomLimit()}
	next.strict = next.limit != nil && w.rng.IntN(2) == 0
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
	r := w.putting(next)
	ignored := w.rng.IntN(4) == 0
	if ignored {
		asked := next
		asked.units++
		r = w.putting(asked)
	}
	if w.etag != "" && w.rng.IntN(2) == 0 {
		r.header = map[string]string{"If-Match": w.etag}
	}
	w.put(r, next, http.StatusOK, ignored)
}

// changeOutdated sends changes whose precondition fails.
func (w *world) changeOutdated() {
	other := w.offer
	other.price++
	r := w.putting(other)
	r.name = "put SKU outdated"
	r.header = pick(w, []map[string]string{{"If-None-Match": "*"}, {"If-Match": `"0-0"`}})
	w.expect(r, fmt.Sprintf("the precondition %v fails", r.header), http.StatusPreconditionFailed)
}

func (w *world) reading(by *customer, id uuid.UUID) request {
	return request{name: "read order", method: http.MethodGet, path: "/v1/orders/" + id.String(), token: by.token}
}

func (w *world) look(o *order) {
	re := w.expect(w.reading(o.by, o.is.ID), "want the order", http.StatusOK)
	got := decode[wire.Order](re)
	w.compare(o, got, re)
}

// readForeign reads, pays or cancels an order of another customer, or one that does not
// exist.
func (w *world) readForeign() {
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
	if re := w.call(r); re.slug != "unknown-order" {
		unexpected(re, "the order is not the customer's")
	}
}

// list reads all pages of a customer's orders and compares them with the model.
func (w *world) list() {
	by := pick(w, w.customers)
	limit := 1 + w.rng.IntN(9)
	listed := map[uuid.UUID]bool{}
	var cursor, last string
	for {
		r := request{name: "list orders", method: http.MethodGet, token: by.token, path: fmt.Sprintf("/v1/orders?limit=%d", limit)}
		if cursor != "" {
			r.path += "&cursor=" + url.QueryEscape(cursor)
		}
		re := w.expect(r, "want a list", http.StatusOK)
		page := decode[wire.OrderList](re)
		if len(page.Items) > limit || len(page.Items) == 0 && (cursor != "" || page.NextCursor != nil) {
			unexpected(re, "want pages of %d", limit)
		}
		for _, got := range page.Items {
			if id := got.ID.String(); listed[got.ID] || last != "" && id > last {
				unexpected(re, "want each order once, the newest first, after %s", last)
			}
			listed[got.ID], last = true, got.ID.String()
			i := slices.IndexFunc(w.orders, func(o *order) bool { return o.is.ID == got.ID && o.by == by })
			if i < 0 {
				if len(w.maybe) == 0 {
					unexpected(re, "order %s is not an order of %s", got.ID, by.name)
				}
				continue
			}
			w.compare(w.orders[i], got, re)
		}
		if page.NextCursor == nil {
			break
		}
		cursor = *page.NextCursor
	}
	for _, o := range w.orders {
		if o.by == by && !listed[o.is.ID] {
			breaks(AsModelled, "order %s is not listed", o.is.ID)
		}
	}
}

// readSKU reads the SKU twice, the second time with its ETag.
func (w *world) readSKU() {
	r := request{name: "read SKU", method: http.MethodGet, path: "/v1/skus/" + w.sku}
	re := w.expect(r, "want the SKU", http.StatusOK)
	w.checkSKU(re, false)
	tag := re.header.Get("ETag")
	if !strings.HasPrefix(tag, `"`) {
		unexpected(re, "want an ETag, not %q", tag)
	}
	r.header = map[string]string{"If-None-Match": tag}
	w.expect(r, "want the SKU or a 304", http.StatusOK, http.StatusNotModified)
}

// wait waits a little, or until a payment window is about to end.
func (w *world) wait() {
	d := time.Duration(w.rng.IntN(200)) * time.Millisecond
	if open := w.inState(wire.Reserved); len(open) > 0 && w.rng.IntN(2) == 0 {
		d = time.Until(pick(w, open).is.ExpiresAt) + time.Duration(w.rng.IntN(40)-25)*time.Millisecond
	}
	w.check(sleep.For(w.ctx, min(d, w.window)))
}
