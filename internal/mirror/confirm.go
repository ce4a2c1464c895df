package mirror

import (
	"context"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

// A view lags, by milliseconds or, where a process or a link was held up, by more.
// Units that came back meanwhile may have been sold again: whoever bought them,
// and asks again here, would be refused. So before an order is refused, etcd is
// asked whether the entry that says so is still the newest, by a linearizable read
// that begins after the order has come. Those who sell units that came back wait
// until an entry has shown them (Mirror.Shown): the entry that is refused by is
// then another one.

const (
	// confirmTimeout bounds one question. Who is not answered goes to the desk.
	confirmTimeout = 250 * time.Millisecond
	// confirmRest is the least time between two questions: thousands of refusals
	// share one, and it adds no more than this to each.
	confirmRest = 4 * time.Millisecond
	// confirmOps are the SKUs of one transaction; etcd lets 128 pass.
	confirmOps = 100
)

// confirming are the refusals that wait for the next question.
type confirming struct {
	mu    sync.Mutex
	next  *question // nil if nobody waits
	ended bool
}

// question is one look at the entries of some SKUs.
type question struct {
	skus map[string]struct{}
	done chan struct{}
	// revisions are the mod revisions of their keys; a SKU that could not be asked
	// for has none. Read only after done.
	revisions map[string]int64
}

// newest reports whether revision is the SKU's newest at some time after the call.
func (m *Mirror) newest(ctx context.Context, sku string, revision int64) bool {
	q := m.confirming.join(sku)
	if q == nil {
		return false
	}
	signal(m.ask)
	select {
	case <-q.done:
		return q.revisions[sku] == revision
	case <-ctx.Done():
		return false
	}
}

// join adds a SKU to the next question; nil when none will be asked any more.
func (c *confirming) join(sku string) *question {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	if c.next == nil {
		c.next = &question{skus: map[string]struct{}{}, done: make(chan struct{})}
	}
	c.next.skus[sku] = struct{}{}
	return c.next
}

// take takes the next question; whoever comes now waits for the one after it.
func (c *confirming) take(last bool) *question {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.next
	c.next, c.ended = nil, last
	return q
}

// confirm asks question after question until ctx ends.
func (m *Mirror) confirm(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-m.ask:
		case <-ctx.Done():
			continue
		}
		if q := m.confirming.take(false); q != nil {
			q.revisions = m.askRevisions(ctx, q.skus)
			close(q.done)
			_ = sleep.For(ctx, confirmRest)
		}
	}
	if q := m.confirming.take(true); q != nil {
		close(q.done)
	}
}

// askRevisions reads the mod revisions of SKUs' keys.
func (m *Mirror) askRevisions(ctx context.Context, skus map[string]struct{}) map[string]int64 {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	revisions := make(map[string]int64, len(skus))
	gets := make([]clientv3.Op, 0, len(skus))
	for sku := range skus {
		gets = append(gets, clientv3.OpGet(m.cfg.Prefix+sku, clientv3.WithKeysOnly()))
	}
	for some := range slices.Chunk(gets, confirmOps) {
		answer, err := m.cfg.Client.Txn(ctx).Then(some...).Commit()
		if err != nil {
			return revisions // who is missing is not confirmed
		}
		for _, r := range answer.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				revisions[string(kv.Key[len(m.cfg.Prefix):])] = kv.ModRevision
			}
		}
	}
	return revisions
}
