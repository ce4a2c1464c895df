package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// recordName is the record's key under the prefix. No SKU begins with #.
	recordName = "#compared"
	// compareEvery is the time from one round to the next. With sampleEvery it
	// keeps what is known under maxAge, also when one round fails.
	compareEvery = 250 * time.Millisecond
	// compareRest stretches it where the rounds take long: one that took d is
	// followed by the next no sooner than this many d later.
	compareRest = 4
	// patience, and up to as much again, is how long the others wait for the
	// comparer's next record before one of them takes its place.
	patience = 500 * time.Millisecond
	// compareTimeout bounds the reading of MySQL in a round, publishTimeout the
	// writing of its record.
	compareTimeout = 500 * time.Millisecond
	publishTimeout = time.Second
	// maxExcept bounds a record to about 64 KiB.
	maxExcept = 1000
	// sweepEvery is the time from one look at all SKUs to the next, sweepPage
	// how many of them are looked at in a round.
	sweepEvery = 10 * time.Second
	sweepPage  = 2000
	// behindFor is how long MySQL must be older than an entry before the entry
	// is deleted. A node of Galera may lag for a moment; a database that was
	// restored, or made anew, stays behind.
	behindFor = 5 * time.Second

	// sampleEvery is how often etcd is asked for its revision.
	sampleEvery   = 100 * time.Millisecond
	sampleTimeout = time.Second
	// samplesKept reach back over maxAge: older ones date nothing of use.
	samplesKept = 16
)

// record is what the comparer says to all replicas.
type record struct {
	// By is the Mirror that compares.
	By string `json:"by"`
	// Compared is a revision of etcd: every entry without units that was put up
	// to there, and is not in Except, was found equal to MySQL at some time
	// after etcd had reached it. 0: nothing was compared.
	Compared int64    `json:"compared"`
	Except   []string `json:"except,omitempty"`
	// Complete: there was once no SKU in MySQL that the mirror lacked.
	Complete bool `json:"complete"`

	revision int64 // the key's mod revision; 0: there is no record
	received time.Time
	except   map[string]bool
}

// sample says that etcd, asked at some time, had come to that revision.
type sample struct {
	at       time.Time // before etcd was asked
	revision int64
}

// takeSamples dates etcd's revisions by this process's monotonic clock.
func (m *Mirror) takeSamples(ctx context.Context) {
	for ; ctx.Err() == nil; _ = sleep.For(ctx, sampleEvery) {
		at := time.Now()
		asking, cancel := context.WithTimeout(ctx, sampleTimeout)
		// Linearizable: whatever was written before it is in its answer.
		answer, err := m.cfg.Client.Get(asking, m.recordKey(), clientv3.WithCountOnly())
		cancel()
		if err != nil {
			continue // what is known gets old
		}
		m.mu.Lock()
		if len(m.samples) == samplesKept {
			m.samples = slices.Delete(m.samples, 0, 1)
		}
		m.samples = append(m.samples, sample{at, answer.Header.Revision})
		m.mu.Unlock()
	}
}

// reached is a time after which etcd has come to that revision: when it was last
// asked and had not. That is no matter of when anything arrived here; zero says
// that it is too long ago to tell. m.mu is held.
func (m *Mirror) reached(revision int64) time.Time {
	for _, s := range slices.Backward(m.samples) {
		if s.revision < revision {
			return s.at
		}
	}
	return time.Time{}
}

// seeRecord takes the comparer's record into the view. m.mu is held.
func (m *Mirror) seeRecord(kv *mvccpb.KeyValue) {
	if kv.ModRevision <= m.record.revision {
		return
	}
	var r record
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		m.cfg.Logger.Error("mirror: a record cannot be read", "error", err)
		r = record{}
	} else {
		r.received = time.Now()
	}
	r.revision = kv.ModRevision
	if len(r.Except) > 0 {
		r.except = make(map[string]bool, len(r.Except))
		for _, sku := range r.Except {
			r.except[sku] = true
		}
	}
	m.record = r
	m.asOf = m.reached(r.Compared)
}

// comparer is a Mirror's turn at comparing. No lock gives it: two that compare
// at the same time only do the work twice, and the compare of the record's mod
// revision makes one of them wait.
type comparer struct {
	*Mirror
	last   time.Time            // when the last round began
	took   time.Duration        // what it took
	behind map[string]time.Time // since when MySQL is older than the entry
	// The sweep: where it stands, when it began, what it has found.
	after   string
	began   time.Time
	missing int
	whole   bool // a sweep found nothing missing
	trouble bool // the last round failed; says so once
}

// compare takes its turns until ctx ends.
func (m *Mirror) compare(ctx context.Context) {
	c := &comparer{Mirror: m, behind: map[string]time.Time{}}
	for ctx.Err() == nil {
		if wait := c.wait(time.Now()); wait > 0 {
			_ = sleep.For(ctx, wait)
			continue
		}
		c.last = time.Now()
		err := c.round(ctx)
		c.took = time.Since(c.last)
		if err != nil && !c.trouble && ctx.Err() == nil {
			m.cfg.Logger.Warn("mirror: nothing is refused from memory, since it cannot be compared with MySQL", "error", err)
		}
		c.trouble = err != nil
	}
}

// wait is how long the next turn is away, as far as is known now.
func (c *comparer) wait(now time.Time) time.Duration {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if !c.synced {
		return sampleEvery
	}
	next := c.last.Add(max(compareEvery, compareRest*c.took))
	if r := &c.record; r.revision > 0 && r.By != c.id {
		if theirs := r.received.Add(patience + rand.N(patience)); theirs.After(next) {
			next = theirs
		}
	}
	return next.Sub(now)
}

// round compares, and says so. When MySQL does not answer it says that nothing
// was compared: the others learn that their watch works.
func (c *comparer) round(ctx context.Context) error {
	c.mu.RLock()
	r := record{By: c.id, Complete: c.record.Complete}
	compared, base := c.revision, c.record.revision
	c.mu.RUnlock()

	except, err := c.compareSoldOut(ctx)
	if err == nil && len(except) <= maxExcept {
		r.Compared, r.Except = compared, except
	}
	if err == nil {
		err = c.sweep(ctx)
	}
	r.Complete = r.Complete || c.whole
	text, encodeErr := json.Marshal(&r)
	if encodeErr != nil {
		return encodeErr
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	_, putErr := c.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(c.recordKey()), "=", base)).
		Then(clientv3.OpPut(c.recordKey(), string(text))).Commit()
	if putErr != nil {
		return fmt.Errorf("publish the comparison: %w", putErr)
	}
	return err
}

// compareSoldOut compares all entries without units. It returns those that are
// not as MySQL has them, and has them written again.
func (c *comparer) compareSoldOut(ctx context.Context) (except []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	soldOut := c.entries(func(it *item) bool { return it.Available <= 0 })
	skus := make([]string, len(soldOut))
	for i, k := range soldOut {
		skus[i] = k.sku
	}
	rows, err := readRows(ctx, c.cfg.DB, skus)
	if err != nil {
		return nil, err
	}
	for _, k := range soldOut {
		row, ok := rows[k.sku]
		if !c.agrees(ctx, k, row, ok) {
			except = append(except, k.sku)
			c.cfg.Metrics.Stale.Inc()
		}
	}
	return except, nil
}

// sweep looks at the next page of all SKUs, from time to time. What a replica
// that has died has not written is found here, and at first everything.
func (c *comparer) sweep(ctx context.Context) error {
	if c.after == "" {
		if c.whole && time.Since(c.began) < sweepEvery {
			return nil
		}
		c.began, c.missing = time.Now(), 0
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	entries := map[string]known{}
	for _, k := range c.entries(func(it *item) bool { return it.SKU > c.after }) {
		entries[k.sku] = k
	}
	rows, err := readPage(ctx, c.cfg.DB, c.after, sweepPage)
	if err != nil {
		return err
	}
	last := len(rows) < sweepPage
	for _, row := range rows {
		k, ok := entries[row.SKU]
		if !ok {
			c.missing++
			c.heal(row.SKU, row.Available)
			continue
		}
		c.agrees(ctx, k, row, true)
		delete(entries, row.SKU)
	}
	for sku, k := range entries {
		if last || sku < rows[len(rows)-1].SKU {
			c.agrees(ctx, k, Entry{}, false)
		}
	}
	if !last {
		c.after = rows[len(rows)-1].SKU
		return nil
	}
	c.after = ""
	c.whole = c.missing == 0
	return nil
}

// entries are those of the view that keep picks.
func (c *comparer) entries(keep func(*item) bool) []known {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var some []known
	for _, it := range c.items {
		if keep(it) {
			some = append(some, it.known())
		}
	}
	return some
}

// agrees reports whether MySQL's row, which was read after the entry was known,
// says the same. An older entry is written again. A newer one, or one without a
// row, is deleted if that does not pass: else the mirror of a database that was
// restored would be wrong for ever.
func (c *comparer) agrees(ctx context.Context, k known, row Entry, exists bool) bool {
	if exists && row.Seq >= k.entry.Seq {
		delete(c.behind, k.sku)
		if k.replacedBy(&row) {
			c.heal(k.sku, row.Available)
			return false
		}
		return true
	}
	c.cfg.Metrics.Behind.Inc()
	since, noted := c.behind[k.sku]
	lasts := time.Since(since)
	switch {
	case !noted, lasts > 3*sweepEvery: // or it was noted on an earlier turn
		c.behind[k.sku] = time.Now()
	case lasts > behindFor:
		c.remove(ctx, k)
	}
	return false
}

// remove deletes an entry, unless it has changed. What fails, the next round does.
func (c *comparer) remove(ctx context.Context, k known) {
	key := c.entryKey(k.sku)
	_, err := c.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", k.revision)).
		Then(clientv3.OpDelete(key)).Commit()
	if err == nil {
		delete(c.behind, k.sku)
	}
	c.cfg.Logger.Warn("mirror: deletes an entry that MySQL does not have", "sku", k.sku, "seq", k.entry.Seq, "error", err)
}

// heal has an entry written that its own replica has not written yet, or never will.
func (c *comparer) heal(sku string, available int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(sku, available)
}
