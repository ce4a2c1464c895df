package order

import (
	"hash/maphash"
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
	known map[uint64]remembered // by the hashes of their keys
	ring  [memorySize]uint64    // those hashes, the oldest at next
	next  int
}

// hash is that of the key, to look it up by: hashing two strings costs more than all
// else that is done with a key, and is done once an order. Another key may have the
// same hash.
func (k byKey) hash() uint64 { return maphash.Comparable(hashSeed, k) }

var hashSeed = maphash.MakeSeed()

// era is a time in which what was remembered holds: the row of the stock went
// forward. It is named by its address.
type era struct{ _ byte }

type remembered struct {
	order *Order // nobody changes it any more
	era   *era
	at    time.Time
	slot  int
}

func newMemory() *memory { return &memory{known: map[uint64]remembered{}} }

func (m *memory) get(k byKey, hash uint64, e *era) (Order, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.known[hash]
	if !ok || r.order.Customer != k.customer || r.order.Key != k.key || r.era != e || time.Since(r.at) > memoryTime {
		return Order{}, false
	}
	return *r.order, true
}

// put remembers orders, whose keys have these hashes.
func (m *memory) put(orders []*Order, hashes []uint64, e *era) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, o := range orders {
		k := hashes[i]
		if old := m.ring[m.next]; m.known[old].slot == m.next {
			delete(m.known, old)
		}
		m.ring[m.next] = k
		m.known[k] = remembered{order: o, era: e, at: now, slot: m.next}
		m.next = (m.next + 1) % memorySize
	}
}
