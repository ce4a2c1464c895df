package mirror

import (
	"context"
	"fmt"
	"maps"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// compareEvery is about the time from one comparison to the next. A change
	// whose replica died before it wrote the entry is shown after so long.
	compareEvery = 10 * time.Second
	// compareLeast is the least time between two of them, where the view may lack
	// SKUs; compareRest stretches it where they take long: one that took d is
	// followed by the next no sooner than so many d later.
	compareLeast = 250 * time.Millisecond
	compareRest  = 4
	// comparePage is how many rows are read at once, compareTimeout bounds that.
	comparePage    = 2000
	compareTimeout = 2 * time.Second
)

// comparer compares the view with MySQL. Each replica does, since two that
// compare at the same time do no harm: they mark entries, and put decides.
type comparer struct {
	*Mirror
	// ahead are the entries that the last comparison found newer than MySQL.
	ahead map[string]sighting
}

// sighting is since when an entry of that mod revision is newer than MySQL.
type sighting struct {
	revision int64
	since    time.Time
}

// compare compares from time to time, and when the view may lack SKUs, until ctx
// ends.
func (m *Mirror) compare(ctx context.Context) {
	c := comparer{Mirror: m}
	for ctx.Err() == nil {
		timer := time.NewTimer(sleep.Jittered(m.cfg.compareEvery))
		select {
		case <-m.doubt:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		began := time.Now()
		if err := c.look(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("mirror: compare with MySQL", "error", err)
		}
		_ = sleep.For(ctx, max(compareLeast, compareRest*time.Since(began)))
	}
}

// look reads all rows, and has the entries written that differ. The entries are
// known before the rows are read: a row that is older than its entry is not a
// matter of a moment between the two.
func (c *comparer) look(ctx context.Context) error {
	c.mu.RLock()
	synced, entries, removed := c.synced, maps.Clone(c.items), c.removed
	c.mu.RUnlock()
	if !synced {
		return nil // the list, when it comes, calls for a comparison
	}
	lacks := false
	for after, more := "", true; more; {
		rows, err := c.page(ctx, after)
		if err != nil {
			return err
		}
		for i := range rows {
			row := &rows[i]
			it := entries[row.SKU]
			if it != nil && row.Seq < it.Seq {
				continue // it stays among entries
			}
			lacks = lacks || it == nil
			if it == nil || row.replaces(&it.Entry) {
				c.Changed(row.SKU, row.Available)
			}
			delete(entries, row.SKU)
		}
		if more = len(rows) == comparePage; more {
			after = rows[len(rows)-1].SKU
		}
	}
	c.seeAhead(ctx, entries)

	c.mu.Lock()
	defer c.mu.Unlock()
	if !lacks && removed == c.removed {
		c.complete = true
	}
	if !c.complete {
		signal(c.doubt)
	}
	return nil
}

func (c *comparer) page(ctx context.Context, after string) ([]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	return readPage(ctx, c.cfg.DB, after, comparePage)
}

// seeAhead is given the entries that MySQL does not have, or has an older row of.
// A node of Galera may lag for a moment. A database that was restored, or made
// anew, stays behind: unless its entries were deleted, the mirror would be wrong
// for ever.
func (c *comparer) seeAhead(ctx context.Context, entries map[string]*item) {
	ahead := make(map[string]sighting, len(entries))
	for sku, it := range entries {
		seen := c.ahead[sku]
		if seen.revision != it.revision {
			seen = sighting{it.revision, time.Now()}
		}
		ahead[sku] = seen
		if time.Since(seen.since) > c.cfg.compareEvery/2 {
			err := c.remove(ctx, it)
			c.cfg.Logger.Warn("mirror: deletes an entry that is newer than MySQL", "sku", sku, "seq", it.Seq, "error", err)
		}
	}
	c.ahead = ahead
}

// remove deletes an entry, unless it has changed since.
func (c *comparer) remove(ctx context.Context, it *item) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	key := c.cfg.Prefix + it.SKU
	_, err := c.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", it.revision)).
		Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return fmt.Errorf("delete the entry of %s: %w", it.SKU, err)
	}
	return nil
}
