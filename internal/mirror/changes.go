package mirror

import "time"

// Since returns what the view may have learned after it was at a revision of
// etcd, in byte order, and the revision that it is at now, to be given the next
// time. 0 is before everything. An entry may come twice; whoever follows the
// view by Next and Since misses no SKU's last change, and needs no copy of those
// that did not change. It reports false when the view is not healthy.
func (m *Mirror) Since(revision int64) (changed []Entry, now int64, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.healthy(time.Now()) {
		return nil, revision, false
	}
	for _, sku := range m.names {
		// What this replica has learned from its own writes may be ahead of the
		// view's revision, and others' changes still to come between: so the view's
		// is the one to go on from.
		if it := m.items[sku]; it.revision > revision && !it.wrong {
			changed = append(changed, it.Entry)
		}
	}
	return changed, m.revision, true
}
