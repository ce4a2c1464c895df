package mirror

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// spacing is the least time between two writes of one SKU, whoever writes:
	// under 20 a second. It counts from when this replica has learned of the
	// last one, and nobody writes who has not learned of it.
	spacing = 52 * time.Millisecond
	// batchEvery and batchSize bound what is written of units that merely went
	// up or down: under 200 SKUs a second, several in one transaction.
	batchEvery = 55 * time.Millisecond
	batchSize  = 10
	// txnEvery is the least time between two transactions: under 200 a second.
	txnEvery = 6 * time.Millisecond
	// txnSize is the most SKUs of one transaction; etcd's default is 128.
	txnSize = 64
	// writeTimeout bounds one attempt: a read of MySQL and a transaction.
	writeTimeout = 2 * time.Second
)

// class is how soon a change has to be written.
type class int

const (
	// crossing: units that were there are gone, or the other way round. It is
	// written at once, before all others.
	crossing class = iota
	// fresh: the view has no such SKU.
	fresh
	// ordinary: units went up or down. It may wait, and be coalesced.
	ordinary
	classes
)

// change is an entry that is to be written.
type change struct {
	class     class
	available int64 // as its last committer left it; what is written is read anew
}

// step is a place in the path of a write.
type step string

// beforePut: MySQL was read, and nothing written yet.
const beforePut step = "before-put"

// Changed says that a write to the SKU's row has been committed, and left so many
// units available. It never blocks. The entry is written soon; at once, when the
// mirror shows units where there are none, or none where there are some. In the
// second case this replica refuses nothing meanwhile.
func (m *Mirror) Changed(sku string, available int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if it := m.items[sku]; it != nil && it.Available <= 0 && available > 0 {
		it.doubted = true
	}
	if _, waits := m.committed[sku]; !waits {
		m.committed[sku] = time.Now()
	}
	m.mark(sku, available)
}

// mark puts a SKU into the queue of its class, or a more urgent one than it
// stands in. What is to be written is no more than which SKUs: the queues are
// bounded by their number. m.mu is held.
func (m *Mirror) mark(sku string, available int64) {
	c := change{ordinary, available}
	switch it := m.items[sku]; {
	case it == nil:
		c.class = fresh
	case it.wrong, (it.Available > 0) != (available > 0):
		c.class = crossing
	}
	old, waits := m.pending[sku]
	if waits && old.class <= c.class {
		c.class = old.class
		m.pending[sku] = c
		return
	}
	m.pending[sku] = c
	m.queues[c.class] = append(m.queues[c.class], sku) // in an old queue, it is passed over
	signal(m.wake)
}

// write writes what is marked until ctx ends, and then the rest.
func (m *Mirror) write(ctx context.Context) {
	pause := retryPause
	var nextBatch time.Time // of ordinary changes
	for ctx.Err() == nil {
		now := time.Now()
		skus, some, wait := m.due(now, nextBatch)
		if some {
			nextBatch = now.Add(batchEvery)
		}
		if len(skus) == 0 {
			m.awaitWork(ctx, wait)
			continue
		}
		if err := m.writeMarked(ctx, skus); err == nil {
			pause = retryPause
			_ = sleep.For(ctx, txnEvery)
		} else if ctx.Err() == nil {
			m.cfg.Metrics.Failures.Inc()
			m.cfg.Logger.Warn("mirror: write", "skus", len(skus), "error", err)
			_ = sleep.For(ctx, sleep.Jittered(pause))
			pause = min(2*pause, retryPauseMax)
		}
	}
	m.flush(ctx)
}

// flush writes what is marked when the replica ends, as far as time allows: the
// comparer of another one does the rest.
func (m *Mirror) flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for ctx.Err() == nil {
		// All that waits for its time is due by then.
		skus, _, _ := m.due(time.Now().Add(time.Minute), time.Time{})
		if len(skus) == 0 {
			return
		}
		if err := m.writeMarked(ctx, skus); err != nil {
			m.cfg.Logger.Warn("mirror: last write", "skus", len(skus), "error", err)
			_ = sleep.For(ctx, retryPause)
		}
	}
}

// awaitWork waits until something is marked, or what is has become due.
func (m *Mirror) awaitWork(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-m.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// due takes what is to be written now out of the queues: crossings first, and
// ordinary changes only from nextBatch on, of which some is true if there were
// any. wait is how long to wait for the next if there is nothing.
func (m *Mirror) due(now, nextBatch time.Time) (skus []string, some bool, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	wait = time.Minute
	for c := range classes {
		most := txnSize - len(skus)
		if c == ordinary {
			if len(m.queues[c]) == 0 {
				break
			}
			if early := nextBatch.Sub(now); early > 0 {
				wait = min(wait, early)
				break
			}
			most = min(most, batchSize)
		}
		taken, early := m.take(c, most, now)
		skus = append(skus, taken...)
		wait = min(wait, early)
		some = c == ordinary && len(taken) > 0
	}
	return skus, some, wait
}

// take takes at most that many out of one queue, and leaves those of which
// another was written a moment ago; the first of them is due after early.
func (m *Mirror) take(c class, most int, now time.Time) (taken []string, early time.Duration) {
	early = time.Minute
	queue := m.queues[c]
	var kept []string
	for i, sku := range queue {
		if len(taken) == most {
			kept = append(kept, queue[i:]...)
			early = 0
			break
		}
		if waits, ok := m.pending[sku]; !ok || waits.class != c {
			continue // it was taken from a more urgent queue
		}
		if it := m.items[sku]; it != nil {
			least := spacing
			if c == ordinary {
				least += it.turn
			}
			if left := it.learned.Add(least).Sub(now); left > 0 {
				kept = append(kept, sku)
				early = min(early, left)
				continue
			}
		}
		delete(m.pending, sku)
		taken = append(taken, sku)
	}
	m.queues[c] = kept
	return taken, early
}

// writeMarked writes SKUs that were taken out of the queues. Those of which it is
// not known that they were written are marked again.
func (m *Mirror) writeMarked(ctx context.Context, skus []string) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	lost, err := m.put(ctx, skus)
	if err != nil {
		lost = skus // or written: then there will be nothing to do
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, sku := range lost {
		if _, ok := m.pending[sku]; !ok {
			m.markAgain(sku)
		}
	}
	return err
}

// markAgain marks a SKU of whose row nothing new is known. m.mu is held.
func (m *Mirror) markAgain(sku string) {
	it := m.items[sku]
	switch {
	case it == nil:
		m.mark(sku, 0)
	case it.doubted:
		m.mark(sku, 1) // a crossing, still
	default:
		m.mark(sku, it.Available)
	}
}

// known is a key of etcd as it was before MySQL was read.
type known struct {
	sku      string
	revision int64 // 0: there is no key
	entry    Entry
	wrong    bool
}

// put writes entries by compare-and-swap: the key's mod revision is known first,
// then MySQL is read, then the entry is put if the mod revision is still the
// same. Without the compare, two who read MySQL in one order and write etcd in
// the other would leave the older entry there.
//
// The view tells the mod revision; where that is out of date the compare fails,
// and its answer brings the view forward. Several SKUs share a transaction, and
// each is compared for itself. lost are those whose compare failed.
func (m *Mirror) put(ctx context.Context, skus []string) (lost []string, err error) {
	before := m.knownOf(skus)
	rows, err := readRows(ctx, m.cfg.DB, skus)
	if err != nil {
		return nil, err
	}
	m.cfg.at(beforePut, skus)
	var ops []clientv3.Op
	var puts []*mvccpb.KeyValue // of ops, in the same order
	for _, k := range before {
		row, ok := rows[k.sku]
		if !ok || !k.replacedBy(&row) {
			m.settled(k, ok && row.Seq == k.entry.Seq)
			continue
		}
		key := m.entryKey(k.sku)
		value, err := row.encode()
		if err != nil {
			return nil, err
		}
		ops = append(ops, clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", k.revision)},
			[]clientv3.Op{clientv3.OpPut(key, value)},
			[]clientv3.Op{clientv3.OpGet(key)}))
		puts = append(puts, &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)})
	}
	if len(ops) == 0 {
		return nil, nil
	}
	answer, err := m.cfg.Client.Txn(ctx).Then(ops...).Commit()
	m.cfg.Metrics.Transactions.Inc()
	if err != nil {
		return nil, fmt.Errorf("write %d entries: %w", len(ops), err)
	}
	return m.answered(answer, puts), nil
}

// answered brings the view forward by the answer to a write.
func (m *Mirror) answered(answer *clientv3.TxnResponse, puts []*mvccpb.KeyValue) (lost []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	revision := answer.Header.Revision
	for i, kv := range puts {
		sku, _ := m.skuOf(kv)
		one := answer.Responses[i].GetResponseTxn()
		if one.Succeeded {
			m.cfg.Metrics.Writes.Inc()
			kv.ModRevision = revision
			m.learn(sku, revision, kv)
			m.undoubt(sku, revision)
			m.shown(sku)
			continue
		}
		m.cfg.Metrics.LostRaces.Inc()
		lost = append(lost, sku)
		var stands *mvccpb.KeyValue
		if kvs := one.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			stands = kvs[0]
		}
		m.learn(sku, revision, stands)
	}
	return lost
}

func (m *Mirror) knownOf(skus []string) []known {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]known, len(skus))
	for i, sku := range skus {
		all[i].sku = sku
		if it := m.items[sku]; it != nil {
			all[i] = it.known()
		}
	}
	return all
}

func (it *item) known() known { return known{it.SKU, it.revision, it.Entry, it.wrong} }

// replacedBy reports whether to write the row, which was read after k was known.
// A row that is older than the entry is the comparer's matter.
func (k *known) replacedBy(row *Entry) bool {
	return k.revision == 0 || row.replaces(&k.entry) || k.wrong && row.Seq >= k.entry.Seq
}

// settled ends a doubt where MySQL says the same as the entry.
func (m *Mirror) settled(k known, same bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if same {
		m.undoubt(k.sku, k.revision)
	}
	m.shown(k.sku)
}

// shown ends what is timed of a SKU's commits: etcd has them, or newer ones. What
// was committed since MySQL was read is timed from here. m.mu is held.
func (m *Mirror) shown(sku string) {
	since, timed := m.committed[sku]
	if !timed {
		return
	}
	now := time.Now()
	m.cfg.Metrics.Lag.Observe(now.Sub(since).Seconds())
	if _, again := m.pending[sku]; again {
		m.committed[sku] = now
	} else {
		delete(m.committed, sku)
	}
}

// undoubt: the entry of that revision has what this replica had committed, unless
// more was committed since. m.mu is held.
func (m *Mirror) undoubt(sku string, revision int64) {
	_, again := m.pending[sku]
	if it := m.items[sku]; it != nil && it.revision == revision && !again {
		it.doubted = false
	}
}
