package order

import (
	"slices"
	"sync"
	"time"

	"flashsale/internal/lock"
)

// queue is the line of tickets before a desk. It grows as they come: a channel
// that has room for all that may ever wait would cost 32 KiB for each SKU in use.
type queue struct {
	arrived chan struct{} // of size one: something has come since it was read

	mu      sync.Mutex
	tickets []*ticket
}

func newQueue() *queue { return &queue{arrived: make(chan struct{}, 1)} }

// put adds a ticket, unless bound of them wait already.
func (q *queue) put(t *ticket, bound int) bool {
	q.mu.Lock()
	if len(q.tickets) >= bound {
		q.mu.Unlock()
		return false
	}
	q.tickets = append(q.tickets, t)
	q.mu.Unlock()
	q.wake()
	return true
}

// wake makes whoever waits for arrived look at the queue.
func (q *queue) wake() {
	select {
	case q.arrived <- struct{}{}:
	default:
	}
}

// putBack puts tickets before all others.
func (q *queue) putBack(tickets []*ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tickets = append(tickets, q.tickets...)
}

// gather takes up to n tickets for the tenure of that token, without waiting for more: whatever queued up
// during the last commit is the next batch. A batch never mixes orders and
// changes of the SKU: it has the kind that has waited longest, and the other one
// comes next. Each batch ends with a commit, and one for each change between
// orders would leave little time for any.
//
// It returns the tickets that it took; moved, which that tenure must not decide;
// and how many others left the queue because nobody waits for them any more.
func (q *queue) gather(n int, token lock.Token) (batch, moved []*ticket, left int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.tickets
	if len(all) == 0 {
		return nil, nil, 0
	}
	changes := all[0].change != nil
	seen, others := 0, 0 // others are at the front of those seen
	for ; seen < len(all) && len(batch) < n; seen++ {
		t := all[seen]
		switch {
		case (t.change != nil) != changes:
			all[others] = t
			others++
		case !t.take():
			left++
		case t.change == nil && !t.admittedBy(token):
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

// drop takes out the tickets that nobody waits for any more, and returns how many
// these were.
func (q *queue) drop(now time.Time) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.tickets[:0]
	for _, t := range q.tickets {
		if t.waits(now) {
			waiting = append(waiting, t)
		}
	}
	dropped := len(q.tickets) - len(waiting)
	clear(q.tickets[len(waiting):])
	q.tickets = waiting
	return dropped
}

// empty takes out all tickets.
func (q *queue) empty() []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.tickets
	q.tickets = nil
	return all
}

// changesNext reports whether the next batch is of changes.
func (q *queue) changesNext() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tickets) > 0 && q.tickets[0].change != nil
}

// peek is the ticket that has waited longest, in a list of one or none.
func (q *queue) peek() []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.tickets[:min(1, len(q.tickets))])
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tickets)
}
