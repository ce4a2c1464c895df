package mirror

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/etcdwatch"
)

const (
	listTimeout = 2 * time.Second // bounds one page of the list
	listPage    = 1000            // how many keys are listed at once: about 256 KiB
	// askEvery is how often etcd is asked for an answer on the watch: a node can
	// hang without closing its streams. After that much silence the view is not
	// current any more, and the watch is opened again.
	askEvery = 500 * time.Millisecond
	silence  = 2 * time.Second
)

// clockCheck is how often the announcements are compared with this replica's clock.
const clockCheck = time.Second

var errSilent = errors.New("the watch is silent")

// follow keeps the view up to date until ctx ends.
func (m *Mirror) follow(ctx context.Context) {
	(&etcdwatch.Watch{
		Client: m.cfg.Client, Prefix: m.cfg.Prefix, Stream: "mirror",
		List: m.list, Apply: m.apply, Tick: m.askProgress, Interval: askEvery,
		Broken: func(err error) {
			m.desync()
			m.metrics.relists.Inc()
			m.cfg.Logger.Warn("mirror: watch ended; opening it again", "error", err)
		},
	}).Run(ctx)
}

// askProgress asks etcd to send its revision on the watch. It does not wait for
// the answer, but blocks while the client has no stream.
func (m *Mirror) askProgress(ctx context.Context, silent time.Duration) error {
	if silent > silence {
		return errSilent
	}
	ctx, cancel := context.WithTimeout(ctx, askEvery)
	defer cancel()
	_ = m.cfg.Client.RequestProgress(ctx)
	return nil
}

// list reads all keys as of one revision. Its reads are linearizable, so the
// revision is not older than the beginning of the watch.
func (m *Mirror) list(ctx context.Context, _ int64) error {
	var kvs []*mvccpb.KeyValue
	var revision int64 // 0 is the newest; the first page tells which
	from, end := m.cfg.Prefix, clientv3.WithRange(clientv3.GetPrefixRangeEnd(m.cfg.Prefix))
	for more := true; more; {
		attempt, cancel := context.WithTimeout(ctx, listTimeout)
		page, err := m.cfg.Client.Get(attempt, from, end, clientv3.WithRev(revision), clientv3.WithLimit(listPage))
		cancel()
		if err != nil {
			return err
		}
		kvs = append(kvs, page.Kvs...)
		if revision == 0 {
			revision = page.Header.Revision
		}
		if more = page.More; more {
			from = string(kvs[len(kvs)-1].Key) + "\x00"
		}
	}
	m.install(revision, kvs)
	return nil
}

// install replaces the view with a list of all keys at that revision. The revision
// may be lower than the last one: etcd may have been restored from a backup.
func (m *Mirror) install(revision int64, kvs []*mvccpb.KeyValue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items, m.names, m.upcoming = make(map[string]*item, len(kvs)), nil, map[string]time.Time{}
	for _, kv := range kvs {
		m.see(kv)
	}
	m.revision, m.synced = revision, true
	m.mayLack()
	m.changed()
}

// apply updates the view with a message of the watch, which may have no events. It
// skips those up to the view's revision, which the list included.
func (m *Mirror) apply(events []*clientv3.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = time.Now()
	applied := m.revision // one revision may have several events
	for _, event := range events {
		if event.Kv.ModRevision <= applied {
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

// desync records that the view may miss changes.
func (m *Mirror) desync() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.synced = false
	m.changed()
}

// announce lists SKUs when their announcements are due, until ctx ends.
func (m *Mirror) announce(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-m.announces:
		case <-time.After(m.announceDue(time.Now())):
		case <-ctx.Done():
		}
	}
}

// announceDue lists the SKUs that are due, and returns how long to wait for the next. That
// is at most clockCheck, because this replica's clock may be set meanwhile.
func (m *Mirror) announceDue(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	wait, due := clockCheck, false
	for sku, at := range m.upcoming {
		if left := at.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		it := *m.items[sku]
		it.listed, due = true, true
		m.set(&it)
	}
	if due {
		m.changed()
	}
	return wait
}

// see takes one key into the view. This and all functions below need m.mu.
func (m *Mirror) see(kv *mvccpb.KeyValue) {
	sku := m.skuOf(kv)
	old := m.items[sku]
	entry, err := decodeEntry(sku, kv.Value)
	if err != nil || old != nil && entry.Seq < old.Seq {
		// No replica puts such an entry. If MySQL has the SKU, the entry is replaced.
		m.cfg.Logger.Error("mirror: stale or undecodable entry", "sku", sku, "revision", kv.ModRevision, "error", err)
		m.mark(change{sku: sku, available: entry.Available, since: time.Now()})
		return
	}
	if old == nil {
		at, _ := slices.BinarySearch(m.names, sku)
		m.names = slices.Insert(m.names, at, sku)
	}
	it := &item{Entry: entry, revision: kv.ModRevision, seen: time.Now()}
	it.listed = entry.Listed(it.seen)
	m.set(it)
	if c, waits := m.pending[sku]; waits {
		m.mark(c) // it may have become urgent
	}
}

// set stores an item, and notes when it will be announced.
func (m *Mirror) set(it *item) {
	m.changes++
	it.change = m.changes
	m.items[it.SKU] = it
	delete(m.upcoming, it.SKU)
	if !it.listed && it.WithdrawnAt == nil {
		m.upcoming[it.SKU] = *it.VisibleFrom
		signal(m.announces)
	}
}

// forget removes a deleted key from the view. The key is written again if MySQL
// has the SKU.
func (m *Mirror) forget(sku string) {
	old := m.items[sku]
	if old == nil {
		return
	}
	delete(m.items, sku)
	delete(m.upcoming, sku)
	if at, ok := slices.BinarySearch(m.names, sku); ok {
		m.names = slices.Delete(m.names, at, at+1)
	}
	m.mayLack()
	m.mark(change{sku: sku, available: old.Available, since: time.Now()})
}

// mayLack records that MySQL may have SKUs that the view lacks, and asks for a
// comparison.
func (m *Mirror) mayLack() {
	m.complete = false
	m.removed++
	signal(m.mayLackSKUs)
}

// changed wakes all goroutines that wait for a change of the view.
func (m *Mirror) changed() {
	if m.next != nil {
		close(m.next)
		m.next = nil
	}
}

func (m *Mirror) skuOf(kv *mvccpb.KeyValue) string {
	return strings.TrimPrefix(string(kv.Key), m.cfg.Prefix)
}
