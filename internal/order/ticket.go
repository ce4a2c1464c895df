package order

import (
	"context"
	"sync/atomic"
)

// ticket is an order that waits at a desk. The desk and the waiting caller race
// for it: whoever changes its state first decides whether it is sold.
type ticket struct {
	req Request
	// request is the caller's context, for its ids; what the desk does for many
	// does not end with it.
	request context.Context
	// change, when set, makes this a change of the SKU instead of an order.
	change *change
	state  atomic.Int32
	// twin: another order with its key was in a batch, and decides first.
	twin     atomic.Bool
	answered chan answer // of size one: the desk never waits for a caller
}

type answer struct {
	placed Placed
	err    error
}

const (
	ticketWaits int32 = iota // the caller may leave, and nothing is applied
	ticketTaken              // it is in a batch
	ticketLeft               // the caller has gone
)

func newTicket(r Request) *ticket {
	return &ticket{req: r, answered: make(chan answer, 1)}
}

func (t *ticket) key() byKey { return byKey{t.req.Customer, t.req.Key} }

// waits reports whether the caller is still there.
func (t *ticket) waits() bool { return t.state.Load() != ticketLeft }

// take puts the ticket into a batch; false when its caller has gone.
func (t *ticket) take() bool {
	taken := t.state.CompareAndSwap(ticketWaits, ticketTaken)
	if taken {
		t.waited(nil)
	}
	return taken
}

// putBack takes it out of a batch that was not applied; false when its caller
// has gone meanwhile.
func (t *ticket) putBack() bool {
	t.waitsAgain() // before the caller may see it
	waits := t.state.CompareAndSwap(ticketTaken, ticketWaits)
	if !waits {
		t.waited(nil)
	}
	return waits
}

// leave is the caller's: true when the ticket was in no batch, so that nothing
// was, or will be, applied.
func (t *ticket) leave() bool {
	return t.state.Swap(ticketLeft) == ticketWaits
}

// answer gives the caller its answer. Only the first one counts.
func (t *ticket) answer(p Placed, err error) {
	select {
	case t.answered <- answer{p, err}:
	default:
	}
}

// recent remembers the last orders by key, between recentSize and twice as many.
// Two generations cost less than a list in order of use: the older one is
// dropped whole.
type recent struct{ young, old map[byKey]Order }

// recentSize covers a second of retries on a hot SKU, in about 3 MiB.
const recentSize = 4096

func newRecent() *recent { return &recent{young: map[byKey]Order{}} }

func (r *recent) get(k byKey) (Order, bool) {
	if o, ok := r.young[k]; ok {
		return o, true
	}
	o, ok := r.old[k]
	return o, ok
}

func (r *recent) put(o Order) {
	if len(r.young) >= recentSize {
		r.old, r.young = r.young, make(map[byKey]Order, recentSize)
	}
	r.young[byKey{o.Customer, o.Key}] = o
}
