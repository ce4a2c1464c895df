package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"flashsale/client/wire"
	"flashsale/loadtest/attack"
)

// world is a SKU and a few customers of one actor, with a model of their state. The actor
// makes one call after another, or several at once whose results can be told apart, so
// that it knows which answers are possible. In a shared world other actors buy the same
// SKU: the model then knows its own customers, but not how many units are left.
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
	// maybe are orders that were refused after a try without an answer. That try may
	// still make the order.
	maybe    []*order
	restocks []restock
	// stale are offers that a replica may still show.
	stale  []staleOffer
	calls  []string
	serial int
}

type offer struct {
	units        int64
	price        int64
	limit        *int32
	strict       bool // the hold policy; only with a limit
	starts, ends *time.Time
}

func (o offer) String() string { return encode(o.body("")) }

func (o offer) body(sku string) wire.SKURequest {
	r := wire.SKURequest{Name: "Soak " + sku, PriceCents: o.price, Currency: "EUR", Units: o.units,
		PerCustomerLimit: o.limit, SaleStartsAt: o.starts, SaleEndsAt: o.ends}
	if o.strict {
		r.HoldPolicy = new(string(wire.Strict))
	}
	return r
}

type staleOffer struct {
	offer offer
	until time.Time
}

type customer struct{ name, token string }

// order is an order that was accepted, or one in world.maybe.
type order struct {
	by       *customer
	key      string
	quantity int32
	shown    *int64 // the price in the request, if any
	is       wire.Order
	// first is the body of the first 201, final that of the answer that closed the order.
	first, final []byte
	// reference is that of the payment; late are those of payments that came too late.
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
	// lag is how long a replica may show an old offer: many times longer than the mirror
	// takes while etcd answers.
	lag = 4 * time.Second
	// maxCalls is how many of the last calls of a world are reported with a violation.
	maxCalls = 25
)

// newWorld returns a world whose SKU does not exist yet.
func newWorld(ctx context.Context, c *caller, window time.Duration, name string, seed uint64) *world {
	w := &world{caller: c, ctx: ctx, rng: rand.New(rand.NewPCG(seed, hash(name))), name: name, sku: name, window: window}
	for i := range customersOfAWorld {
		by := fmt.Sprintf("%s/%d", name, i)
		w.customers = append(w.customers, &customer{name: by, token: attack.Token(by, c.secret)})
	}
	return w
}

func hash(name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // never fails
	return h.Sum64()
}

// errUncertain ends a world whose model no longer knows the SKU: a change without an
// answer may be applied at any time.
var errUncertain = errors.New("a change of the SKU had no answer")

// ended carries the error that ends a world from a step to run.
type ended struct{ error }

// check ends the world with err, unless err is nil. Only the world's actor may call it.
func (w *world) check(err error) {
	if err != nil {
		panic(ended{err})
	}
}

// breaks ends the world with a violation: its model no longer holds.
func breaks(invariant, format string, args ...any) {
	panic(ended{&broken{invariant, fmt.Sprintf(format, args...)}})
}

// run runs a script, which ends at the first error, and records what the world has
// observed. It reports whether there was no error.
func (w *world) run(script func()) (ok bool) {
	defer func() {
		var err error
		if cause := recover(); cause != nil {
			e, isEnd := cause.(ended)
			if !isEnd {
				panic(cause)
			}
			err = e.error
		}
		w.finish(err)
		ok = err == nil
	}()
	script()
	return true
}

func (w *world) live() {
	for range lifeSteps {
		w.step()
	}
	w.close()
}

func (w *world) finish(err error) {
	var b *broken
	switch {
	case errors.As(err, &b):
		w.record.violate(Violation{Invariant: b.invariant, Detail: b.detail, World: w.name, Calls: w.calls})
	case errors.Is(err, errUncertain):
		w.record.do(func() { w.record.uncertain++ })
	case err != nil && w.ctx.Err() == nil:
		w.record.violate(Violation{Invariant: AsModelled, Detail: err.Error(), World: w.name, Calls: w.calls})
	}
	w.record.finished(w)
}

func (w *world) call(r request) reply {
	re, err := w.settle(w.ctx, w.rng, r)
	w.log(r, re)
	w.check(err)
	return re
}

// expect makes a call that must have one of the statuses.
func (w *world) expect(r request, what string, statuses ...int) reply {
	re := w.call(r)
	if !slices.Contains(statuses, re.status) {
		unexpected(re, "%s", what)
	}
	return re
}

// atOnce settles requests at the same time and logs them.
func (w *world) atOnce(requests ...request) []reply {
	replies, errs := make([]reply, len(requests)), make([]error, len(requests))
	var all sync.WaitGroup
	for i, r := range requests {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), uint64(i))) // a rand.Rand is for one goroutine
		all.Go(func() { replies[i], errs[i] = w.settle(w.ctx, rng, r) })
	}
	all.Wait()
	for i, r := range requests {
		w.log(r, replies[i])
	}
	w.check(errors.Join(errs...))
	return replies
}

// log keeps a call for the report of a violation.
func (w *world) log(r request, re reply) {
	text := fmt.Sprintf("%s %s %s %s %s -> %s", re.sent.UTC().Format("15:04:05.000"), r.method, r.path, r.header["Idempotency-Key"], r.body, re.outcome())
	if re.lost {
		text += " (after a lost answer)"
	}
	if len(text) > 400 {
		text = text[:400] + " ..."
	}
	if w.calls = append(w.calls, text); len(w.calls) > maxCalls {
		w.calls = w.calls[1:]
	}
}

// unexpected ends the world with an answer that the model does not allow.
func unexpected(re reply, format string, args ...any) {
	breaks(AsModelled, "%s, but got %s: %.300s", fmt.Sprintf(format, args...), re.outcome(), re.body)
}

type bounds struct{ least, most int64 }

// held returns the units that a customer's orders hold at some time between from and to;
// nil means all customers.
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
			b.most += int64(o.quantity) // it may have expired
		}
	}
	for _, o := range w.maybe {
		if by == nil || o.by == by {
			b.most += int64(o.quantity)
		}
	}
	return b
}

// addEnded adds the customer's cancelled and expired orders that count under the strict policy.
func (w *world) addEnded(own *bounds, by *customer, from, to time.Time) {
	for _, o := range w.orders {
		if o.by != by || o.is.Status != wire.Cancelled && o.is.Status != wire.Expired {
			continue
		}
		if !from.After(o.is.ExpiresAt) {
			own.most += int64(o.quantity)
		}
		if to.Before(o.is.ExpiresAt) {
			own.least += int64(o.quantity)
		}
	}
}

func (w *world) left(held bounds) bounds {
	return bounds{least: max(0, w.offer.units-held.most), most: w.offer.units - held.least}
}

// A desk reads the database's clock at the start of its tenure and adds the time since
// then. It is behind by as long as that answer took: longer if the replica was stopped
// meanwhile, but not beyond the lease of its lock.
const (
	behind      = 500 * time.Millisecond
	farBehind   = 3 * time.Second
	longTenures = 10 * time.Second
)

// deskTime returns the earliest time that a desk may see at from.
func (w *world) deskTime(from time.Time) time.Time {
	if w.faults.none(from.Add(-longTenures), from) {
		return from.Add(-behind)
	}
	return from.Add(-farBehind)
}

type outcomes struct {
	accepted bool
	refusals map[string]bool
}

func (p outcomes) allow(re reply) bool {
	if re.status == http.StatusCreated {
		return p.accepted
	}
	return p.refusals[re.slug]
}

// possible returns the possible answers to a new order between two times.
func (w *world) possible(o *order, from, to time.Time) outcomes {
	n := o.quantity
	left := w.left(w.held(nil, from, to))
	if w.shared {
		left = bounds{0, w.offer.units + 1_000_000}
	}
	own, early := w.held(o.by, from, to), w.deskTime(from)
	p := outcomes{accepted: left.most >= int64(n), refusals: map[string]bool{}}
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
		if w.offer.strict {
			w.addEnded(&own, o.by, from, to)
		}
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

func (w *world) randomPrice() int64 {
	if w.rng.IntN(8) == 0 {
		return 0
	}
	return int64(w.rng.IntN(5000))
}

func (w *world) randomLimit() *int32 {
	if w.rng.IntN(3) > 0 {
		return nil
	}
	return new(int32(1 + w.rng.IntN(4)))
}

func (w *world) create() {
	first := offer{units: int64(1 + w.rng.IntN(12)), price: w.randomPrice(), limit: w.randomLimit()}
	first.strict = first.limit != nil && w.rng.IntN(2) == 0
	r := w.putting(first)
	if w.rng.IntN(2) == 0 {
		r.header = map[string]string{"If-None-Match": "*"}
	}
	w.put(r, first, http.StatusCreated, false)
}

func (w *world) putting(o offer) request {
	return request{name: "put SKU", method: http.MethodPut, path: "/v1/admin/skus/" + w.sku, token: w.adminToken, body: encode(o.body(w.sku))}
}

// put creates or changes the SKU. The answer must have that status, and a Warning if the
// request has something that is ignored.
func (w *world) put(r request, next offer, status int, warned bool) {
	re := w.call(r)
	if re.lost {
		w.check(errUncertain)
	}
	if re.status != status || warned != (re.header.Get("Warning") != "") {
		unexpected(re, "want %d to a new offer (Warning: %q)", status, re.header.Get("Warning"))
	}
	if status == http.StatusCreated {
		w.record.do(func() { w.record.skus = append(w.record.skus, w.sku) })
	}
	w.outdate()
	w.offer = next
	w.checkSKU(re, true)
}

// outdate remembers the offer that replicas may show for a while.
func (w *world) outdate() {
	now := time.Now()
	w.stale = slices.DeleteFunc(w.stale, func(s staleOffer) bool { return s.until.Before(now) })
	w.stale = append(w.stale, staleOffer{w.offer, now.Add(lag)})
}

func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // never: all are plain values
	}
	return string(text)
}

func decode[T any](re reply) (v T) {
	if err := json.Unmarshal(re.body, &v); err != nil {
		breaks(InContract, "%s: %v: %s", re.outcome(), err, re.body)
	}
	return v
}

// checkSKU compares an answer with the model. An answer to a change is exact; an answer to
// a read may be old.
func (w *world) checkSKU(re reply, exact bool) {
	sku := decode[wire.SKU](re)
	if exact {
		w.etag = re.header.Get("ETag")
	}
	if sku.SKU != w.sku || sku.Available < 0 || sku.Available > sku.Units {
		unexpected(re, "want SKU %s", w.sku)
	}
	if w.shared {
		return
	}
	fits := func(o offer) bool {
		return sku.Units == o.units && sku.PriceCents == o.price && equal(sku.PerCustomerLimit, o.limit) && (sku.HoldPolicy == wire.Strict) == o.strict
	}
	ok := fits(w.offer)
	for _, old := range w.stale {
		ok = ok || !exact && re.sent.Before(old.until) && fits(old.offer)
	}
	left := w.left(w.held(nil, re.sent, re.done))
	if !ok || exact && (sku.Available < left.least || sku.Available > left.most) {
		unexpected(re, "the offer is %s with %+v units left", w.offer, left)
	}
}

func equal[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}
