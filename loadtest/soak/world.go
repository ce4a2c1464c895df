package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"flashsale/client/wire"
	"flashsale/loadtest/attack"
)

// world is one SKU, a few customers whom nobody else speaks for, and what one actor
// knows of them. It makes one call after another, or several at once whose outcome
// can be told, so that it knows which answers are possible. In a shared world other
// actors buy the same SKU: how many units are left cannot be told then, all that
// concerns its own customers can.
type world struct {
	*caller
	ctx    context.Context
	rng    *rand.Rand
	name   string
	sku    string
	shared bool
	window time.Duration // for payment

	customers []*customer
	offer     offer
	etag      string
	orders    []*order
	// ghosts are orders that were refused after a try without an answer: that one
	// may be on its way still, and make them.
	ghosts   []*order
	restocks []restock
	// stale are prices and units that a replica may still show.
	stale  []seen
	calls  []string
	serial int
}

// offer is what is on sale, as its administrator made it.
type offer struct {
	units        int64
	price        int64
	limit        *int32
	starts, ends *time.Time
}

func (o offer) String() string { return encode(o.body("")) }

// body is the request that makes the offer.
func (o offer) body(sku string) wire.SKURequest {
	return wire.SKURequest{Name: "Soak " + sku, PriceCents: o.price, Currency: "EUR", Units: o.units,
		PerCustomerLimit: o.limit, SaleStartsAt: o.starts, SaleEndsAt: o.ends}
}

type seen struct {
	offer offer
	until time.Time
}

type customer struct{ name, token string }

// order is one that was promised, or for a ghost one that may come to be.
type order struct {
	by       *customer
	key      string
	quantity int32
	shown    *int64 // the price that it is asked for at, if any
	is       wire.Order
	// first is the body of the answer that promised it, final that of the answer
	// that closed it.
	first, final []byte
	// reference is the payment's; late are those that came too late.
	reference string
	late      []string
}

type restock struct {
	key   string
	units int32
	first []byte
}

const (
	customersOfAWorld = 3
	// lag is how long a replica may show what has changed since: many times what
	// the mirror takes while etcd answers.
	lag = 4 * time.Second
	// keptCalls of a world are told with a violation.
	keptCalls = 25
)

// newWorld is a world whose SKU does not exist yet.
func newWorld(ctx context.Context, c *caller, window time.Duration, name string, seed uint64) (*world, error) {
	w := &world{caller: c, ctx: ctx, rng: rand.New(rand.NewPCG(seed, hash(name))), name: name, sku: name, window: window}
	for i := range customersOfAWorld {
		by := &customer{name: fmt.Sprintf("%s/%d", name, i)}
		var err error
		if by.token, err = attack.Token(by.name, c.secret); err != nil {
			return nil, err
		}
		w.customers = append(w.customers, by)
	}
	return w, nil
}

// hash makes a number of a name.
func hash(name string) uint64 {
	n := uint64(14695981039346656037) // FNV-1a
	for i := range len(name) {
		n = (n ^ uint64(name[i])) * 1099511628211
	}
	return n
}

// errHazy ends a world that can no longer know its SKU's price and window: a change
// without an answer may be applied at any time.
var errHazy = errors.New("a change of the SKU had no answer")

// live puts the SKU on sale, and goes on.
func (w *world) live(steps int) error {
	if err := w.create(); err != nil {
		return err
	}
	return w.goOn(steps)
}

// goOn makes steps, then sees all orders to their end.
func (w *world) goOn(steps int) error {
	for range steps {
		if err := w.step(); err != nil {
			return err
		}
	}
	return w.close()
}

// finish notes what the world has seen.
func (w *world) finish(err error) {
	var b *broken
	switch {
	case errors.As(err, &b):
		w.record.violate(Violation{Invariant: b.invariant, Detail: b.detail, World: w.name, Calls: w.calls})
	case errors.Is(err, errHazy):
		w.record.isHazy()
	case err != nil && w.ctx.Err() == nil:
		w.record.violate(Violation{Invariant: AsModelled, Detail: err.Error(), World: w.name, Calls: w.calls})
	}
	w.record.settled(w)
}

// call settles a request, and keeps it for the story of a violation.
func (w *world) call(r request) (reply, error) {
	re, err := w.settle(w.ctx, w.rng, r)
	w.tell(r, re)
	return re, err
}

// tell notes what a request came to.
func (w *world) tell(r request, re reply) {
	text := fmt.Sprintf("%s %s %s %s %s -> %s", re.sent.UTC().Format("15:04:05.000"), r.method, r.path, r.header["Idempotency-Key"], r.body, re.outcome())
	if re.lost {
		text += " (after a lost answer)"
	}
	if len(text) > 400 {
		text = text[:400] + " ..."
	}
	if w.calls = append(w.calls, text); len(w.calls) > keptCalls {
		w.calls = w.calls[1:]
	}
}

// unexpected is the violation that an answer is.
func unexpected(re reply, format string, args ...any) error {
	return breaks(AsModelled, "%s: got %s: %.300s", fmt.Sprintf(format, args...), re.outcome(), re.body)
}

// bounds are the least and the most that something may be.
type bounds struct{ least, most int64 }

// held are the units that a customer's orders, or for nil all orders, hold at some
// time between from and to.
func (w *world) held(by *customer, from, to time.Time) bounds {
	var b bounds
	for _, o := range w.orders {
		if by != nil && o.by != by {
			continue
		}
		switch {
		case o.is.Status == wire.Paid, o.is.Status == wire.Reserved && to.Before(o.is.ExpiresAt):
			b.least += int64(o.quantity)
			b.most += int64(o.quantity)
		case o.is.Status == wire.Reserved:
			b.most += int64(o.quantity) // it may have returned them, or not yet
		}
	}
	for _, o := range w.ghosts {
		if by == nil || o.by == by {
			b.most += int64(o.quantity)
		}
	}
	return b
}

// left are the units that may be had while so many are held.
func (w *world) left(held bounds) bounds {
	return bounds{least: max(0, w.offer.units-held.most), most: w.offer.units - held.least}
}

// A desk tells the time by the database's clock as of the beginning of its tenure,
// and its own since then. It may be behind, by as long as the answer that told it was
// on its way: longer where the replica was stopped meanwhile, though not past the
// lease of its lock.
const (
	behind      = 500 * time.Millisecond
	farBehind   = 3 * time.Second
	longTenures = 10 * time.Second
)

// deskTime is the earliest that a desk may have taken a time for.
func (w *world) deskTime(from time.Time) time.Time {
	if w.weather.calm(from.Add(-longTenures), from) {
		return from.Add(-behind)
	}
	return from.Add(-farBehind)
}

// prospect is what may become of an order between two times.
type prospect struct {
	accepted bool
	refusals map[string]bool
}

// prospectOf is what may become of a new order.
func (w *world) prospectOf(o *order, from, to time.Time) prospect {
	n := o.quantity
	left := w.left(w.held(nil, from, to))
	if w.shared {
		left = bounds{0, w.offer.units + 1_000_000}
	}
	own, early := w.held(o.by, from, to), w.deskTime(from)
	p := prospect{accepted: left.most >= int64(n), refusals: map[string]bool{}}
	may := func(slug string, possible bool) {
		if possible {
			p.refusals[slug] = true
		}
	}
	may("sold-out", left.least <= 0)
	may("insufficient-stock", left.least < int64(n) && left.most > 0)
	if o.shown != nil {
		may("price-changed", *o.shown != w.offer.price)
		p.accepted = p.accepted && *o.shown == w.offer.price
	}
	if w.offer.limit != nil {
		limit := int64(*w.offer.limit)
		may("customer-limit", own.most+int64(n) > limit)
		p.accepted = p.accepted && own.least+int64(n) <= limit
	}
	if w.offer.starts != nil {
		may("sale-not-open", early.Before(*w.offer.starts))
		p.accepted = p.accepted && !to.Before(*w.offer.starts)
	}
	if w.offer.ends != nil {
		may("sale-over", !to.Before(*w.offer.ends))
		p.accepted = p.accepted && early.Before(*w.offer.ends)
	}
	return p
}

// aPrice of a SKU is nothing at all, now and then.
func (w *world) aPrice() int64 {
	if w.rng.IntN(8) == 0 {
		return 0
	}
	return int64(w.rng.IntN(5000))
}

// create puts the world's SKU on sale.
func (w *world) create() error {
	w.offer = offer{units: int64(1 + w.rng.IntN(12)), price: w.aPrice()}
	if w.rng.IntN(3) == 0 {
		limit := int32(1 + w.rng.IntN(4))
		w.offer.limit = &limit
	}
	r := w.put(w.offer)
	if w.rng.IntN(2) == 0 {
		r.header = map[string]string{"If-None-Match": "*"}
	}
	re, err := w.call(r)
	switch {
	case err != nil:
		return err
	case re.lost:
		return errHazy
	case re.status != http.StatusCreated:
		return unexpected(re, "a new SKU")
	}
	w.record.sells(w.sku)
	return w.checkSKU(re, true)
}

// put is the request that makes an offer.
func (w *world) put(o offer) request {
	return request{name: "put SKU", method: http.MethodPut, path: "/v1/admin/skus/" + w.sku, token: w.adminToken, body: encode(o.body(w.sku))}
}

func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of plain values
	}
	return string(text)
}

func decode[T any](re reply) (v T, err error) {
	if err = json.Unmarshal(re.body, &v); err != nil {
		err = breaks(InContract, "%s: %v: %s", re.outcome(), err, re.body)
	}
	return v, err
}

// checkSKU compares what is shown of the SKU with the model. What was just written
// is exact; what is read may be old.
func (w *world) checkSKU(re reply, exact bool) error {
	sku, err := decode[wire.SKU](re)
	if err != nil {
		return err
	}
	if exact {
		w.etag = re.header.Get("ETag")
	}
	if sku.SKU != w.sku || sku.Available < 0 || sku.Available > sku.Units {
		return unexpected(re, "SKU %s", w.sku)
	}
	if w.shared {
		return nil
	}
	fits := func(o offer) bool {
		return sku.Units == o.units && sku.PriceCents == o.price && equal(sku.PerCustomerLimit, o.limit)
	}
	ok := fits(w.offer)
	for _, old := range w.stale {
		ok = ok || !exact && re.sent.Before(old.until) && fits(old.offer)
	}
	left := w.left(w.held(nil, re.sent, re.done))
	if !ok || exact && (sku.Available < left.least || sku.Available > left.most) {
		return unexpected(re, "the offer is %s with %+v left", w.offer, left)
	}
	return nil
}

func equal[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}
