package order

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
)

// ticket is an order or a change of the SKU that waits at a desk. The desk and the
// caller compete for it: the first to change its state decides whether it is served.
type ticket struct {
	sku string
	// Exactly one of order and change is set.
	order     *orderTicket
	change    *change
	forwarded *forwarded // set if another replica waits for the answer
	// request is the caller's context, used for its IDs only: work that a desk does
	// for many callers does not end with one of them.
	request  context.Context
	waitSpan trace.Span // nil if the request is not traced
	state    atomic.Int32
	answered chan answer // of size one: the desk never waits for a caller
}

// orderTicket is what a ticket has if it is an order.
type orderTicket struct {
	*Request
	least       lock.Token  // the oldest tenure that may decide it: the newest that it was sent to so far
	keyInFlight atomic.Bool // set while another order with the same key is in a batch
}

// forwarded describes an order that came from another replica. Only the tenure with
// token least may decide it.
type forwarded struct {
	from   *forward.Source
	number uint64
	until  time.Time // when the other replica stops waiting
	sent   atomic.Bool
}

type answer struct {
	placed Placed
	err    error
}

const (
	ticketWaits int32 = iota // the caller may leave; nothing was applied
	ticketTaken              // it is in a batch
	ticketLeft               // the caller has left
)

func newOrderTicket(ctx context.Context, r *Request, least lock.Token) *ticket {
	return &ticket{sku: r.SKU, order: &orderTicket{Request: r, least: least}, request: ctx, answered: make(chan answer, 1)}
}

func (o *orderTicket) key() byKey { return byKey{o.Customer, o.Key} }

// admittedBy reports whether the tenure with that token may serve the ticket.
func (t *ticket) admittedBy(token lock.Token) bool {
	return t.order == nil || token == t.order.least || token > t.order.least && t.forwarded == nil
}

// waits reports whether a caller still waits for the ticket. It answers a forwarded order
// whose time is over: nothing was applied. An order whose link has ended gets no answer,
// because its sender may have sent it again.
func (t *ticket) waits(now time.Time) bool {
	if f := t.forwarded; f != nil && t.state.Load() == ticketWaits {
		select {
		case <-f.from.Gone():
			if t.leave() {
				t.endWait(errBroken)
			}
		default:
			if now.After(f.until) && t.leave() {
				t.endWait(t.errLate())
				t.answer(Placed{}, t.errLate())
			}
		}
	}
	return t.state.Load() != ticketLeft
}

func (t *ticket) errLate() error {
	if t.order != nil && t.order.keyInFlight.Load() {
		return ErrInFlight
	}
	return errLate
}

var errLate = fmt.Errorf("%w: the order is still waiting", ErrUnavailable)

// take puts the ticket into a batch. It returns false if nobody waits for it.
func (t *ticket) take() bool {
	if t.forwarded != nil && !t.waits(time.Now()) || !t.state.CompareAndSwap(ticketWaits, ticketTaken) {
		return false
	}
	t.endWait(nil)
	if t.order != nil {
		t.order.keyInFlight.Store(false)
	}
	return true
}

// putBack takes the ticket out of an unapplied batch. It returns false if the caller left.
func (t *ticket) putBack(tracer trace.Tracer) bool {
	t.beginWait(tracer) // before the caller can see the ticket again
	waits := t.state.CompareAndSwap(ticketTaken, ticketWaits)
	if !waits {
		t.endWait(nil)
	}
	return waits
}

// await waits for the answer until ctx or over ends. It returns false if there is none.
func (t *ticket) await(ctx context.Context, over <-chan struct{}) (a answer, ok bool) {
	select {
	case a = <-t.answered:
		return a, true
	case <-ctx.Done():
	case <-over:
	}
	return a, false
}

// leave is for the caller. If it returns true, nothing was or will be applied.
func (t *ticket) leave() bool { return t.state.Swap(ticketLeft) == ticketWaits }

// answer answers the caller. Only the first call has an effect.
func (t *ticket) answer(p Placed, err error) {
	if f := t.forwarded; f != nil {
		if f.sent.CompareAndSwap(false, true) {
			f.from.Answer(toWire(f.number, &p, err))
		}
		return
	}
	select {
	case t.answered <- answer{p, err}:
	default:
	}
}

// queue holds the tickets that wait at a desk. It is a slice, because a channel for as
// many tickets as may ever wait would cost 32 KiB per SKU in use.
type queue struct {
	arrived chan struct{} // of size one: signals that a ticket has arrived since the last receive

	mu      sync.Mutex
	tickets []*ticket
}

func newQueue() *queue { return &queue{arrived: make(chan struct{}, 1)} }

// put adds a ticket, unless limit tickets are already waiting.
func (q *queue) put(t *ticket, limit int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.tickets) >= limit {
		return false
	}
	q.tickets = append(q.tickets, t)
	q.wake()
	return true
}

func (q *queue) wake() {
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

func (q *queue) putBack(tickets []*ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tickets = append(tickets, q.tickets...)
}

// gather takes up to n tickets for the tenure with that token, without waiting for more.
// A batch never mixes orders and changes; it has the kind of the oldest ticket. moved are
// tickets that this tenure must not serve. left counts those that nobody waits for.
func (q *queue) gather(n int, token lock.Token) (batch, moved []*ticket, left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.tickets
	if len(all) == 0 {
		return nil, nil, 0
	}
	orders := all[0].order != nil
	seen, others := 0, 0 // tickets of the other kind move to the front of those seen
	for ; seen < len(all) && len(batch) < n; seen++ {
		t := all[seen]
		switch {
		case (t.order != nil) != orders:
			all[others] = t
			others++
		case !t.take():
			left++
		case !t.admittedBy(token):
			moved = append(moved, t)
		default:
			batch = append(batch, t)
		}
	}
	copy(all[seen-others:], all[:others])
	clear(all[:seen-others])
	q.tickets = all[seen-others:]
	return batch, moved, left
}

// drop removes the tickets that nobody waits for any more, and returns their number.
func (q *queue) drop(now time.Time) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := len(q.tickets)
	q.tickets = slices.DeleteFunc(q.tickets, func(t *ticket) bool { return !t.waits(now) })
	return before - len(q.tickets)
}

func (q *queue) empty() []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.tickets
	q.tickets = nil
	return all
}

// oldest is the ticket that has waited longest, in a list of one or none.
func (q *queue) oldest() []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.tickets[:min(1, len(q.tickets))])
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tickets)
}
