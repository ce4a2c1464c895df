package mirror

import (
	"context"
	"maps"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// compareEvery is the average time between two comparisons. If a replica died
	// before it wrote an entry, the next comparison finds the change.
	compareEvery = 10 * time.Second
	// compareLeast is the least time between two comparisons while the view may lack
	// SKUs. After one that took d, the next starts compareRest times d later at the
	// earliest.
	compareLeast = 250 * time.Millisecond
	compareRest  = 4
	// comparePage is how many rows are read at once; compareTimeout bounds that read.
	comparePage    = 2000
	compareTimeout = 2 * time.Second
)

// sighting records since when an entry of that mod revision is newer than MySQL.
type sighting struct {
	revision int64
	since    time.Time
}

// compare compares every compareEvery, and whenever the view may lack SKUs, until
// ctx ends. Two replicas may compare at the same time: they only mark entries, and put
// decides.
func (m *Mirror) compare(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-m.mayLackSKUs:
		case <-time.After(sleep.Jittered(m.cfg.compareEvery)):
		case <-ctx.Done():
		}
		began := time.Now()
		if err := m.compareOnce(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("mirror: comparison with MySQL failed", "error", err)
		}
		_ = sleep.For(ctx, max(compareLeast, compareRest*time.Since(began)))
	}
}

// compareOnce reads all rows and marks the entries that differ. It copies the entries
// before it reads the rows, so that a row older than its entry does not just mean that
// the entry was written in between.
func (m *Mirror) compareOnce(ctx context.Context) error {
	m.mu.RLock()
	synced, entries, removed := m.synced, maps.Clone(m.items), m.removed
	m.mu.RUnlock()
	if !synced {
		return nil // the next list asks for a comparison
	}
	lacks := false
	for after, more := "", true; more; {
		attempt, cancel := context.WithTimeout(ctx, compareTimeout)
		rows, err := m.cfg.DB.List(attempt, after, comparePage)
		cancel()
		if err != nil {
			return err
		}
		for i := range rows {
			row := &rows[i]
			it := entries[row.SKU]
			if it != nil && row.Seq < it.Seq {
				continue // it stays in entries
			}
			lacks = lacks || it == nil
			if it == nil || replaces(row, &it.Entry) {
				m.Changed(row.SKU, row.Available)
			}
			delete(entries, row.SKU)
		}
		if more = len(rows) == comparePage; more {
			after = rows[len(rows)-1].SKU
		}
	}
	m.handleAhead(ctx, entries)

	m.mu.Lock()
	defer m.mu.Unlock()
	if !lacks && removed == m.removed {
		m.complete = true
	}
	if !m.complete {
		signal(m.mayLackSKUs)
	}
	return nil
}

// handleAhead gets the entries that are newer than MySQL or missing there. A node of
// Galera may lag for a moment, but a database that was restored or created again
// stays older: handleAhead deletes an entry that stays newer.
func (m *Mirror) handleAhead(ctx context.Context, entries map[string]*item) {
	ahead := make(map[string]sighting, len(entries))
	for sku, it := range entries {
		seen := m.ahead[sku]
		if seen.revision != it.revision {
			seen = sighting{it.revision, time.Now()}
		}
		ahead[sku] = seen
		if time.Since(seen.since) > m.cfg.compareEvery/2 {
			err := m.remove(ctx, it)
			m.cfg.Logger.Warn("mirror: deleting an entry that is newer than MySQL", "sku", sku, "seq", it.Seq, "error", err)
		}
	}
	m.ahead = ahead
}

// remove deletes an entry unless it has changed.
func (m *Mirror) remove(ctx context.Context, it *item) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	key := m.cfg.Prefix + it.SKU
	_, err := m.cfg.Client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", it.revision)).Then(clientv3.OpDelete(key)).Commit()
	return err
}
