package mirror

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// install replaces the view by a list of all keys at that revision.
func (m *Mirror) install(revision int64, kvs []*mvccpb.KeyValue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	listed := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		listed[string(kv.Key)] = true
		m.see(kv)
	}
	for _, sku := range slices.Clone(m.names) {
		if !listed[m.cfg.Prefix+sku] {
			m.forget(sku, revision)
		}
	}
	if !listed[m.recordKey()] && m.record.revision <= revision {
		m.record = record{}
	}
	m.revision = max(m.revision, revision)
	m.synced = true
	m.changed()
}

// apply brings the view forward by events of the watch. Those that lie before
// its beginning are skipped: a key that they put may be gone since.
func (m *Mirror) apply(events []*clientv3.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.revision // one revision may have several events
	for _, event := range events {
		if event.Kv.ModRevision <= known {
			continue
		}
		if event.Type == clientv3.EventTypeDelete {
			if sku, ok := m.skuOf(event.Kv); ok {
				m.forget(sku, event.Kv.ModRevision)
			} else {
				m.record = record{}
			}
		} else {
			m.see(event.Kv)
		}
		m.revision = event.Kv.ModRevision
	}
	m.changed()
}

// learn takes in what the answer to a write of ours shows of a key as of that
// revision, which the watch will show as well. kv is nil when there is no key.
func (m *Mirror) learn(sku string, revision int64, kv *mvccpb.KeyValue) {
	if revision <= m.revision {
		return // the watch was there already, and may have gone further
	}
	if kv == nil {
		m.forget(sku, revision)
	} else {
		m.see(kv)
	}
	m.changed()
}

// desync says that the view may have missed something.
func (m *Mirror) desync() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced = false
	m.changed()
}

// see takes one key into the view. m.mu is held by this and all below.
func (m *Mirror) see(kv *mvccpb.KeyValue) {
	sku, ok := m.skuOf(kv)
	if !ok {
		m.seeRecord(kv)
		return
	}
	it := m.items[sku]
	switch {
	case it == nil:
		it = &item{Entry: Entry{SKU: sku}}
		m.items[sku] = it
		at, _ := slices.BinarySearch(m.names, sku)
		m.names = slices.Insert(m.names, at, sku)
	case kv.ModRevision <= it.revision:
		return
	}
	it.revision, it.learned, it.turn = kv.ModRevision, time.Now(), rand.N(spacing)
	entry, err := decodeEntry(sku, kv.Value)
	// Whoever has written an older entry did not compare. It is no news, and
	// must not stand in etcd for those who come later.
	it.wrong = err != nil || entry.Seq < it.Seq
	if it.wrong {
		m.cfg.Logger.Error("mirror: an entry went back, or cannot be read", "sku", sku, "revision", it.revision, "error", err)
		m.mark(sku, it.Available)
		return
	}
	it.Entry = entry
	if entry.Available <= 0 {
		m.wantBuyers(it)
	} else {
		it.doubted = false
	}
	if c, ok := m.pending[sku]; ok { // seen from here it may be more urgent
		it.doubted = entry.Available <= 0 && (it.doubted || c.available > 0)
		m.mark(sku, c.available)
	}
}

// forget takes a key out of the view that was deleted at that revision. Only the
// comparer deletes, what MySQL does not have; anything else is written again.
func (m *Mirror) forget(sku string, revision int64) {
	it := m.items[sku]
	if it == nil || it.revision > revision {
		return
	}
	delete(m.items, sku)
	delete(m.unloaded, sku)
	if it.buyers != nil {
		m.hashes -= len(it.buyers.hashes)
	}
	if at, ok := slices.BinarySearch(m.names, sku); ok {
		m.names = slices.Delete(m.names, at, at+1)
	}
	m.mark(sku, it.Available)
}

// changed tells who waits for a change of the view.
func (m *Mirror) changed() {
	if m.next != nil {
		close(m.next)
		m.next = nil
	}
}

// skuOf is the SKU whose key it is; false for the comparer's record.
func (m *Mirror) skuOf(kv *mvccpb.KeyValue) (string, bool) {
	sku := strings.TrimPrefix(string(kv.Key), m.cfg.Prefix)
	return sku, sku != recordName
}

func (m *Mirror) entryKey(sku string) string { return m.cfg.Prefix + sku }
func (m *Mirror) recordKey() string          { return m.cfg.Prefix + recordName }
