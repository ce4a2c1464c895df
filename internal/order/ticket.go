package order

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
)

// ticket is an order, or a change of the SKU, that waits at a desk. The desk and
// whoever waits for it race for it: the first one to change its state decides
// whether it is sold.
type ticket struct {
	req Request
	// request is the caller's context, for its ids; what the desk does for many
	// does not end with it.
	request context.Context
	// change, when set, makes this a change of the SKU instead of an order.
	change *change
	// least is the oldest tenure that may decide the order: it was sent to that
	// one before, and must not be decided by an older one.
	least lock.Token
	// forwarded is set where another replica waits for the answer.
	forwarded *forwarded
	state     atomic.Int32
	// twin: another order with its key was in a batch, and decides first.
	twin     atomic.Bool
	answered chan answer // of size one: the desk never waits for a caller
}

// forwarded is what a ticket has whose order came from another replica. Only the
// tenure of token least may decide it.
type forwarded struct {
	from   *forward.Source
	number uint64
	until  time.Time // after it nobody waits
	told   atomic.Bool
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

func newTicket(ctx context.Context, r Request) *ticket {
	return &ticket{req: r, request: ctx, answered: make(chan answer, 1)}
}

func (t *ticket) key() byKey { return byKey{t.req.Customer, t.req.Key} }

// admittedBy reports whether the tenure of that token may decide the order.
func (t *ticket) admittedBy(token lock.Token) bool {
	if t.forwarded != nil {
		return token == t.least
	}
	return token >= t.least
}

// waits reports whether somebody still waits for it. An order of another replica
// whose time is over is answered, so that its buyer is told that nothing was
// applied. One that came by a link which has ended is not: whoever sent it may
// have sent it again.
func (t *ticket) waits(now time.Time) bool {
	if f := t.forwarded; f != nil && t.state.Load() == ticketWaits {
		select {
		case <-f.from.Gone():
			if t.leave() {
				t.waited(errBroken)
			}
		default:
			if now.After(f.until) && t.leave() {
				t.waited(t.late())
				t.answer(Placed{}, t.late())
			}
		}
	}
	return t.state.Load() != ticketLeft
}

// late is what an order is told whose time is over before it was in a batch.
func (t *ticket) late() error {
	if t.twin.Load() {
		return ErrInFlight
	}
	return errLate
}

// errLate says that the order was not applied.
var errLate = fmt.Errorf("%w: the order still waits", ErrUnavailable)

// take puts the ticket into a batch; false when nobody waits for it.
func (t *ticket) take() bool {
	if t.forwarded != nil && !t.waits(time.Now()) {
		return false
	}
	taken := t.state.CompareAndSwap(ticketWaits, ticketTaken)
	if taken {
		t.waited(nil)
		t.twin.Store(false)
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
	if f := t.forwarded; f != nil {
		if f.told.CompareAndSwap(false, true) {
			f.from.Answer(toWire(f.number, &p, err))
		}
		return
	}
	select {
	case t.answered <- answer{p, err}:
	default:
	}
}
