package mirror

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"time"

	"flashsale/internal/sleep"
)

const (
	// maxHashes bounds the sets of buyers of all SKUs together: 32 MiB. A SKU
	// that finds no room is refused by its desk.
	maxHashes = 4 << 20
	// loadBatch is how many SKUs are loaded by one query.
	loadBatch = 16
	// loadTimeout bounds that query: a million orders take a second or two.
	loadTimeout = 20 * time.Second
	// loadRest is how long, in times of what a load has taken, the loader rests
	// after it: orders come first.
	loadRest = 4
)

// buyers are all orders of one SKU that were admitted up to seq, by the hashes of
// their customers' keys. Since every order moves its SKU's seq, in the same
// transaction, and the row is locked from there to COMMIT, whoever has seen seq
// in the row, or in an entry, and reads the orders afterwards, sees all of them.
// Those that came later do no harm.
type buyers struct {
	seq    uint64
	hashes []uint64 // sorted; never changed
}

// wanted is a SKU without units whose buyers are not known.
type wanted struct {
	sku string
	it  *item
	seq uint64
	had *buyers // up to an earlier seq, or nil
}

// after is the seq up to which all orders are known; the first order has seq 1.
func (w *wanted) after() uint64 {
	if w.had == nil {
		return 0
	}
	return w.had.seq
}

// wantBuyers asks for the buyers of a SKU that has no units. m.mu is held.
func (m *Mirror) wantBuyers(it *item) {
	if it.buyers == nil || it.buyers.seq != it.Seq {
		m.unloaded[it.SKU] = struct{}{}
		signal(m.fetch)
	}
}

// load loads buyers until ctx ends.
func (m *Mirror) load(ctx context.Context) {
	pause := retryPause
	for ctx.Err() == nil {
		batch, room := m.takeUnloaded()
		if len(batch) == 0 {
			select {
			case <-m.fetch:
			case <-ctx.Done():
			}
			continue
		}
		began := time.Now()
		found, err := m.findBuyers(ctx, batch, room)
		switch {
		case err == nil:
			pause = retryPause
			m.keepBuyers(batch, found)
			_ = sleep.For(ctx, min(loadRest*time.Since(began), retryPauseMax))
		case errors.Is(err, errNoRoom):
			m.cfg.Logger.Warn("mirror: too many orders to remember; their SKUs are refused by the desk", "skus", len(batch))
		case ctx.Err() == nil:
			m.cfg.Logger.Warn("mirror: load buyers", "error", err)
			m.wantAgain(batch)
			_ = sleep.For(ctx, sleep.Jittered(pause))
			pause = min(2*pause, retryPauseMax)
		}
	}
}

// takeUnloaded takes the next SKUs to load, and says how many hashes may be added.
func (m *Mirror) takeUnloaded() (batch []wanted, room int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for sku := range m.unloaded {
		if len(batch) == loadBatch {
			break
		}
		delete(m.unloaded, sku)
		if it := m.items[sku]; it != nil && it.Available <= 0 && (it.buyers == nil || it.buyers.seq != it.Seq) {
			batch = append(batch, wanted{sku: sku, it: it, seq: it.Seq, had: it.buyers})
		}
	}
	if len(batch) > 0 && m.hashes > maxHashes/2 {
		m.dropIdle()
	}
	return batch, maxHashes - m.hashes
}

// dropIdle forgets the buyers of SKUs that have units again. They were kept to
// load no more than the newer ones next time.
func (m *Mirror) dropIdle() {
	for _, it := range m.items {
		if it.Available > 0 && it.buyers != nil {
			m.hashes -= len(it.buyers.hashes)
			it.buyers = nil
		}
	}
}

var errNoRoom = errors.New("too many orders to remember")

// findBuyers reads the hashes that are not known yet.
func (m *Mirror) findBuyers(ctx context.Context, batch []wanted, room int) (map[string][]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	found := make(map[string][]uint64, len(batch))
	total := 0
	err := readBuyers(ctx, m.cfg.DB, batch, func(sku, customer, key []byte) error {
		if total++; total > room {
			return errNoRoom
		}
		found[string(sku)] = append(found[string(sku)],
			maphash.Bytes(m.seeds[0], customer)^maphash.Bytes(m.seeds[1], key)) // as Mirror.hash
		return nil
	})
	return found, err
}

// keepBuyers adds what was found to what was known.
func (m *Mirror) keepBuyers(batch []wanted, found map[string][]uint64) {
	for _, w := range batch {
		hashes := found[w.sku]
		if w.had != nil {
			hashes = slices.Concat(w.had.hashes, hashes)
		}
		slices.Sort(hashes)
		set := &buyers{seq: w.seq, hashes: slices.Clip(hashes)}
		m.mu.Lock()
		if m.items[w.sku] == w.it && w.it.buyers == w.had { // not forgotten meanwhile
			if w.had != nil {
				m.hashes -= len(w.had.hashes)
			}
			m.hashes += len(set.hashes)
			w.it.buyers = set
		}
		m.mu.Unlock()
	}
}

func (m *Mirror) wantAgain(batch []wanted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range batch {
		m.unloaded[w.sku] = struct{}{}
	}
}
