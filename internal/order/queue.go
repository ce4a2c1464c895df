package order

import "sync"

// queue is the line of orders before a desk. It grows as they come: a channel
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
	select {
	case q.arrived <- struct{}{}:
	default:
	}
	return true
}

// take moves up to n tickets to the end of a list.
func (q *queue) take(list []*ticket, n int) []*ticket {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.tickets))
	if n <= 0 {
		return list
	}
	list = append(list, q.tickets[:n]...)
	rest := copy(q.tickets, q.tickets[n:])
	clear(q.tickets[rest:])
	q.tickets = q.tickets[:rest]
	return list
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.tickets) == 0
}
