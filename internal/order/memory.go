package order

import (
	"hash/maphash"
	"sync"
	"time"
)

const (
	// memorySize covers half a second of a busy replica's orders, in about 6 MiB,
	// however many SKUs they are of.
	memorySize = 8192
	memoryTime = 5 * time.Second // longer than most clients wait before they retry
)

// memory holds the latest orders of a replica by their keys, so that an immediate retry
// is answered without MySQL. Its limits in number and time are for all desks together.
type memory struct {
	mu     sync.Mutex
	orders map[uint64]remembered // by the hash of the key
	ring   [memorySize]uint64    // the same hashes, the oldest at next
	next   int
}

// hash is how the key is looked up. Each order computes it once, because hashing two
// strings costs more than everything else that is done with a key. Other keys may have
// the same hash.
func (k byKey) hash() uint64 { return maphash.Comparable(hashSeed, k) }

var hashSeed = maphash.MakeSeed()

// era is a period during which the stock row did not go back in time, so that remembered
// orders are valid. Only its address is used.
type era struct{ _ byte }

type remembered struct {
	order *Order // not modified any more
	era   *era
	at    time.Time
	slot  int
}

func (m *memory) get(k byKey, hash uint64, e *era) (Order, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.orders[hash]
	if !ok || r.order.Customer != k.customer || r.order.Key != k.key || r.era != e || time.Since(r.at) > memoryTime {
		return Order{}, false
	}
	return *r.order, true
}

func (m *memory) put(orders []*Order, hashes []uint64, e *era) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, o := range orders {
		k := hashes[i]
		if old := m.ring[m.next]; m.orders[old].slot == m.next {
			delete(m.orders, old)
		}
		m.ring[m.next] = k
		m.orders[k] = remembered{order: o, era: e, at: now, slot: m.next}
		m.next = (m.next + 1) % memorySize
	}
}
