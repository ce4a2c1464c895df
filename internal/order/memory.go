package order

import (
	"sync"
	"time"
)

const (
	// memorySize covers half a second of orders of a busy replica, in some 6 MiB,
	// however many SKUs they are of.
	memorySize = 8192
	// memoryTime is longer than most clients wait before they ask again.
	memoryTime = 5 * time.Second
)

// memory has the last orders of a replica by their keys, so that a buyer who asks
// again at once is answered without MySQL. It is bounded by number and by time,
// over all desks together. What one era has remembered is of no use in another:
// see tenure.
type memory struct {
	mu    sync.Mutex
	known map[byKey]remembered
	ring  [memorySize]byKey // the keys of known, the oldest at next
	next  int
}

// era is a time in which what was remembered holds: the row of the stock went
// forward. It is named by its address.
type era struct{ _ byte }

type remembered struct {
	order *Order // nobody changes it any more
	era   *era
	at    time.Time
	slot  int
}

func newMemory() *memory { return &memory{known: map[byKey]remembered{}} }

func (m *memory) get(k byKey, e *era) (Order, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.known[k]
	if !ok || r.era != e || time.Since(r.at) > memoryTime {
		return Order{}, false
	}
	return *r.order, true
}

func (m *memory) put(orders []*Order, e *era) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range orders {
		k := byKey{o.Customer, o.Key}
		if old := m.ring[m.next]; m.known[old].slot == m.next {
			delete(m.known, old)
		}
		m.ring[m.next] = k
		m.known[k] = remembered{order: o, era: e, at: now, slot: m.next}
		m.next = (m.next + 1) % memorySize
	}
}
