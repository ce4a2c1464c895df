package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// spacing is the least time between two writes of one SKU by any replica, from when
	// this replica saw the last one. People cannot read a number that changes faster.
	spacing = 250 * time.Millisecond
	// batchEvery and batchSize bound the ordinary writes to 160 SKUs a second, several
	// in one transaction.
	batchEvery = spacing / 2
	batchSize  = 20
	txnEvery   = 6 * time.Millisecond // the least time between two transactions: under 200 a second
	txnSize    = 64                   // the most SKUs of one transaction; etcd's default limit is 128
	// writeTimeout bounds one attempt: a read of etcd, one of MySQL, and a
	// transaction.
	writeTimeout = 2 * time.Second
	flushTimeout = time.Second // bounds the writing of pending entries when the replica ends
)

// retry is the wait after a failed attempt.
var retry = sleep.Backoff{Min: 20 * time.Millisecond, Max: time.Second}

// change marks an entry to write. The writer reads the row again.
type change struct {
	sku       string
	available int64     // after the last commit
	since     time.Time // of the first of the coalesced changes
	// urgent: the view lacks the SKU, or differs in whether it is sold out. Other
	// changes may wait, and are coalesced.
	urgent bool
}

// Changed records that a write to the SKU's row was committed and left this many
// units available. It never blocks. The entry is written soon; at once if the view
// differs in whether the SKU is sold out.
func (m *Mirror) Changed(sku string, available int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mark(change{sku: sku, available: available, since: time.Now()})
}

// mark puts a SKU into the queue that its change belongs to, if it is not there.
// The queues hold SKUs, not changes, which bounds them. The caller holds m.mu.
func (m *Mirror) mark(c change) {
	it := m.items[c.sku]
	old, waits := m.pending[c.sku]
	c.urgent = c.urgent || old.urgent || it == nil || (it.Available > 0) != (c.available > 0)
	if waits && old.since.Before(c.since) {
		c.since = old.since
	}
	m.pending[c.sku] = c
	if waits && c.urgent == old.urgent {
		return
	}
	if c.urgent {
		m.urgent = append(m.urgent, c.sku) // take skips it in the other queue
	} else {
		m.ordinary = append(m.ordinary, c.sku)
	}
	signal(m.wake)
}

// write writes marked entries until ctx ends, and then the rest.
func (m *Mirror) write(ctx context.Context) {
	pause := retry
	for ctx.Err() == nil {
		batch, wait := m.due(time.Now())
		if len(batch) == 0 {
			select {
			case <-m.wake:
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		if err := m.writeBatch(ctx, batch); err == nil {
			pause.Reset()
			_ = sleep.For(ctx, txnEvery)
		} else if ctx.Err() == nil {
			m.metrics.failures.Inc()
			m.cfg.Logger.Warn("mirror: write to etcd failed; trying again", "skus", len(batch), "error", err)
			_ = sleep.For(ctx, pause.Next())
		}
	}
	m.flush(ctx)
}

// flush writes the pending entries when the replica ends, as far as time allows.
// The comparison of another replica finds the rest.
func (m *Mirror) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	var failed error // of the last attempt
	for now := time.Now(); ctx.Err() == nil; {
		now = now.Add(time.Minute) // at which every change is due
		batch, _ := m.due(now)
		if len(batch) == 0 {
			return
		}
		if err := m.writeBatch(ctx, batch); err != nil {
			failed = err
			_ = sleep.For(ctx, retry.Min)
		}
	}
	m.cfg.Logger.Warn("mirror: ended before all entries were written to etcd", "error", failed)
}

// due takes the changes to write now out of the queues: urgent ones first, ordinary
// ones when their next batch is due. If it takes none, nothing is due until wait is
// over or another change is marked.
func (m *Mirror) due(now time.Time) (batch []change, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	batch, m.urgent, wait = m.take(m.urgent, true, txnSize, now)
	if early := m.nextBatch.Sub(now); early > 0 {
		return batch, min(wait, early)
	}
	more, rest, early := m.take(m.ordinary, false, min(batchSize, txnSize-len(batch)), now)
	m.ordinary = rest
	if len(more) > 0 {
		m.nextBatch = now.Add(batchEvery)
	}
	return append(batch, more...), min(wait, early)
}

// take takes at most that many changes out of one queue. It leaves those whose SKU
// was written less than spacing ago; the first of them is due after wait.
func (m *Mirror) take(queue []string, urgent bool, most int, now time.Time) (taken []change, rest []string, wait time.Duration) {
	wait = time.Minute
	for i, sku := range queue {
		if len(taken) == most {
			return taken, append(rest, queue[i:]...), 0
		}
		c, waits := m.pending[sku]
		if !waits || c.urgent != urgent {
			continue // it was taken from the other queue
		}
		if it := m.items[sku]; it != nil && now.Before(it.seen.Add(spacing)) {
			rest = append(rest, sku)
			wait = min(wait, it.seen.Add(spacing).Sub(now))
			continue
		}
		delete(m.pending, sku)
		taken = append(taken, c)
	}
	return taken, rest, wait
}

// writeBatch writes changes that were taken out of the queues. Those that may not
// have been written are marked again.
func (m *Mirror) writeBatch(ctx context.Context, batch []change) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	lost, err := m.put(ctx, batch)
	if err != nil {
		lost = batch // if they were written, the next attempt does nothing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range lost {
		if newer, waits := m.pending[c.sku]; waits {
			c.available = newer.available
		}
		m.mark(c)
	}
	return err
}

// put writes entries by compare-and-swap. It reads the keys with their mod revisions,
// then MySQL, and then puts each entry whose mod revision is unchanged. Without the
// compare, two replicas that read MySQL in one order and write etcd in the other
// would leave the older entry there.
//
// Several SKUs share a transaction, and each has its own compare. lost are those
// whose compare failed.
func (m *Mirror) put(ctx context.Context, batch []change) (lost []change, err error) {
	skus := make([]string, len(batch))
	for i, c := range batch {
		skus[i] = c.sku
	}
	before, err := m.readStored(ctx, skus)
	if err != nil {
		return nil, err
	}
	rows, err := m.cfg.DB.GetMany(ctx, skus)
	if err != nil {
		return nil, err
	}
	m.cfg.beforePut()
	var puts []change
	var ops []clientv3.Op // of puts, in the same order
	for i, c := range batch {
		row, exists := rows[c.sku]
		if !exists || !replaces(&row, before[i].entry) {
			m.observeLag(c)
			continue
		}
		value, err := json.Marshal(row)
		if err != nil { // a date after the year 9999
			return nil, fmt.Errorf("encode %s: %w", c.sku, err)
		}
		key := m.cfg.Prefix + c.sku
		ops = append(ops, clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", before[i].revision)},
			[]clientv3.Op{clientv3.OpPut(key, string(value))}, nil))
		puts = append(puts, c)
	}
	if len(ops) == 0 {
		return nil, nil
	}
	answer, err := m.cfg.Client.Txn(ctx).Then(ops...).Commit()
	m.metrics.transactions.Inc()
	if err != nil {
		return nil, fmt.Errorf("write %d entries: %w", len(ops), err)
	}
	for i, c := range puts {
		if answer.Responses[i].GetResponseTxn().Succeeded {
			m.metrics.writes.Inc()
			m.observeLag(c)
		} else {
			m.metrics.lostRaces.Inc()
			lost = append(lost, c)
		}
	}
	return lost, nil
}

// stored is a key of etcd.
type stored struct {
	revision int64  // its mod revision; 0 if it does not exist
	entry    *Entry // nil if the key does not exist or cannot be decoded
}

// readStored reads the keys of SKUs, in the given order. The read is linearizable.
func (m *Mirror) readStored(ctx context.Context, skus []string) ([]stored, error) {
	ops := make([]clientv3.Op, len(skus))
	for i, sku := range skus {
		ops[i] = clientv3.OpGet(m.cfg.Prefix + sku)
	}
	answer, err := m.cfg.Client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, fmt.Errorf("read %d entries: %w", len(skus), err)
	}
	all := make([]stored, len(skus))
	for i, sku := range skus {
		for _, kv := range answer.Responses[i].GetResponseRange().Kvs {
			all[i].revision = kv.ModRevision
			if entry, err := decodeEntry(sku, kv.Value); err == nil {
				all[i].entry = &entry
			}
		}
	}
	return all, nil
}

// observeLag records the time until etcd had a change, or a later one.
func (m *Mirror) observeLag(c change) { m.metrics.lag.Observe(time.Since(c.since).Seconds()) }

// replaces reports whether to write row, read from MySQL, over old, which was read
// from etcd before; nil means no entry. Every change of a row moves its seq.
func replaces(row, old *Entry) bool {
	return old == nil || row.Seq > old.Seq ||
		// A restored database has reached the same seq by other changes.
		row.Seq == old.Seq && (row.Available != old.Available || row.Units != old.Units || row.Revision != old.Revision)
}

func decodeEntry(sku string, value []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(value, &e); err != nil {
		return Entry{}, fmt.Errorf("decode %s: %w", sku, err)
	}
	if e.SKU != sku {
		return Entry{}, fmt.Errorf("decode %s: the entry is for %q", sku, e.SKU)
	}
	return e, nil
}
