package mirror

import (
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// install replaces the view by a list of all keys at that revision. The revision
// may be lower than the last one: etcd may have been restored from a backup.
func (m *Mirror) install(revision int64, kvs []*mvccpb.KeyValue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items, m.names = make(map[string]*item, len(kvs)), nil
	for _, kv := range kvs {
		m.see(kv)
	}
	m.revision, m.synced = revision, true
	m.mayLack()
	m.changed()
}

// apply brings the view forward by a message of the watch, which may have no
// events. Those up to the view's revision were in the list.
func (m *Mirror) apply(events []*clientv3.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = time.Now()
	known := m.revision // one revision may have several events
	for _, event := range events {
		if event.Kv.ModRevision <= known {
			continue
		}
		if event.Type == clientv3.EventTypeDelete {
			m.forget(m.skuOf(event.Kv))
		} else {
			m.see(event.Kv)
		}
		m.revision = event.Kv.ModRevision
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
	sku := m.skuOf(kv)
	old := m.items[sku]
	entry, err := decodeEntry(sku, kv.Value)
	if err != nil || old != nil && entry.Seq < old.Seq {
		// Replicas put no such entry. Where MySQL has the SKU, it is put right.
		m.cfg.Logger.Error("mirror: an entry went back, or cannot be read", "sku", sku, "revision", kv.ModRevision, "error", err)
		m.mark(change{sku: sku, available: entry.Available, since: time.Now()})
		return
	}
	if old == nil {
		at, _ := slices.BinarySearch(m.names, sku)
		m.names = slices.Insert(m.names, at, sku)
	}
	m.items[sku] = &item{Entry: entry, revision: kv.ModRevision, seen: time.Now()}
	if c, waits := m.pending[sku]; waits {
		m.mark(c) // what is to be written may have become urgent
	}
}

// forget takes a key out of the view that was deleted. It is written again where
// MySQL has the SKU.
func (m *Mirror) forget(sku string) {
	old := m.items[sku]
	if old == nil {
		return
	}
	delete(m.items, sku)
	if at, ok := slices.BinarySearch(m.names, sku); ok {
		m.names = slices.Delete(m.names, at, at+1)
	}
	m.mayLack()
	m.mark(change{sku: sku, available: old.Available, since: time.Now()})
}

// mayLack says that MySQL may have SKUs which the view does not have: a
// comparison will tell.
func (m *Mirror) mayLack() {
	m.complete = false
	m.removed++
	signal(m.doubt)
}

// changed wakes those who wait for a change of the view.
func (m *Mirror) changed() {
	if m.next != nil {
		close(m.next)
		m.next = nil
	}
}

func (m *Mirror) skuOf(kv *mvccpb.KeyValue) string {
	return strings.TrimPrefix(string(kv.Key), m.cfg.Prefix)
}
