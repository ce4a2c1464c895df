package etcdlock

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/etcdwatch"
)

// queue is the view of one name's keys in etcd, and our places among them.
type queue struct {
	name   string
	prefix string // of its keys

	// These are guarded by the Locker.
	whole    bool              // a list has come
	early    []*clientv3.Event // those that came before
	revision int64             // that the view is as of
	keys     map[string]entry  // the view, by key
	first    *first            // of the view; nil where nobody holds
	places   map[string]*place // ours, by key
	lastUsed time.Time         // when a place ended, or the holder was asked for
}

// entry is a key as the view has it.
type entry struct {
	created int64  // its create revision
	owner   []byte // its value
}

// first is the key that holds, by the view.
type first struct {
	key   string
	entry entry
	owner Owner
	gone  chan struct{} // closed when it is the first no more
}

// keysOf is how the queue's keys under a lease begin.
func (q *queue) keysOf(ls *ownLease) string { return fmt.Sprintf("%s%x-", q.prefix, ls.id) }

// queueFor is the queue of name. The watch is opened with the first one.
func (l *Locker) queueFor(name string) *queue {
	q := l.queues[name]
	if q == nil {
		q = &queue{
			name: name, prefix: l.cfg.Prefix + name + "/",
			keys: map[string]entry{}, places: map[string]*place{}, lastUsed: time.Now(),
		}
		l.queues[name] = q
		if l.unfollow == nil {
			ctx, stop := context.WithCancel(l.ctx)
			l.unfollow = stop
			l.start(func() { l.follow(ctx) })
		}
	}
	return q
}

// queueOf is the queue that a key stands in, if it is in use.
func (l *Locker) queueOf(key string) *queue {
	rest, ok := strings.CutPrefix(key, l.cfg.Prefix)
	if !ok {
		return nil
	}
	name, _, _ := strings.Cut(rest, "/")
	return l.queues[name]
}

// isPlace reports whether a place of ours stands for key.
func (l *Locker) isPlace(key string) bool {
	q := l.queueOf(key)
	return q != nil && q.places[key] != nil
}

// follow keeps all views up to date until no name has been used for a while.
func (l *Locker) follow(ctx context.Context) {
	watch := etcdwatch.Watch{
		Client: l.cfg.Client, Prefix: l.cfg.Prefix, List: l.catchUp, Apply: l.apply, Interval: l.watchTick(),
		Tick: func(ctx context.Context, silence time.Duration) error {
			// A node can hang without closing its streams. Waiters must not depend
			// on it: any node can answer the list.
			if !l.dropIdle() && silence >= l.watchTick() && l.anyWaits() {
				return l.catchUp(ctx, 0)
			}
			return nil
		},
		Broken: func(err error) {
			if l.dropIdle() {
				return
			}
			l.cfg.Logger.Warn("etcd lock: watch ended; opening it again", "error", err)
			if l.anyWaits() {
				_ = l.catchUp(ctx, 0) // while there is no watch; repeated with the next one
			}
		},
	}
	watch.Run(ctx)
}

// watchTick is how often the watch is looked after.
func (l *Locker) watchTick() time.Duration { return min(l.cfg.TTL, l.idle) }

// catchUp brings all views to that revision at least, by a list of all keys; 0 is
// the newest.
func (l *Locker) catchUp(ctx context.Context, revision int64) error {
	if revision > 0 && l.reached(revision) {
		return nil // by the answers of transactions
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	answer, err := l.cfg.Client.Get(ctx, l.cfg.Prefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("list %s: %w", l.cfg.Prefix, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	listed := map[*queue][]*mvccpb.KeyValue{}
	for _, kv := range answer.Kvs {
		if q := l.queueOf(string(kv.Key)); q != nil {
			listed[q] = append(listed[q], kv)
		}
	}
	for _, q := range l.queues {
		l.install(q, answer.Header.Revision, listed[q])
		l.decide(q)
	}
	return nil
}

// reached reports whether every view is as of that revision or later.
func (l *Locker) reached(revision int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		if !q.whole || q.revision < revision {
			return false
		}
	}
	return true
}

// install replaces an older view by a list of the queue at that revision.
func (l *Locker) install(q *queue, revision int64, kvs []*mvccpb.KeyValue) {
	if revision <= q.revision {
		return
	}
	q.revision = revision
	clear(q.keys)
	for _, kv := range kvs {
		l.appeared(q, kv)
	}
	early := q.early
	q.whole, q.early = true, nil
	for _, event := range early {
		if event.Kv.ModRevision > revision {
			l.forward(q, event)
		}
	}
}

// apply brings the views forward by events of the watch. Those that a view
// already holds, from a list or an answer, are skipped.
func (l *Locker) apply(events []*clientv3.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := map[*queue]int64{} // before these: one revision may have several
	for _, event := range events {
		q := l.queueOf(string(event.Kv.Key))
		if q == nil {
			continue
		}
		if _, ok := known[q]; !ok {
			known[q] = q.revision
		}
		switch {
		case !q.whole:
			q.early = append(q.early, event)
		case event.Kv.ModRevision > known[q]:
			l.forward(q, event)
		}
	}
	for q := range known {
		l.decide(q)
	}
}

// forward brings a view to an event.
func (l *Locker) forward(q *queue, event *clientv3.Event) {
	q.revision = event.Kv.ModRevision
	if event.Type == clientv3.EventTypeDelete {
		delete(q.keys, string(event.Kv.Key))
	} else {
		l.appeared(q, event.Kv)
	}
}

// appeared takes a key into the view. A key of ours without a place is one that
// a request left behind.
func (l *Locker) appeared(q *queue, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	q.keys[key] = entry{created: kv.CreateRevision, owner: kv.Value}
	// The key's name says whose it is: a list of keys alone does not always tell
	// their leases.
	if ls := l.lease; ls != nil && strings.HasPrefix(key, q.keysOf(ls)) && q.places[key] == nil {
		l.discard(ls, key, kv.CreateRevision)
	}
}

// decide draws the consequences of a change of the view or of our places.
func (l *Locker) decide(q *queue) {
	for _, p := range q.places {
		_, stands := q.keys[p.key]
		if !stands && p.revision > 0 && p.revision <= q.revision {
			l.end(p, errVanished)
		}
	}
	q.findFirst()
	if q.first == nil {
		return
	}
	p := q.places[q.first.key]
	if p == nil {
		return
	}
	if p.state == waiting && p.lease.alive() {
		p.state = held
		close(p.turn)
	}
	if p.state == held && len(q.keys) > 1 && !p.told {
		p.told = true
		close(p.wanted)
	}
}

// findFirst sees which key is the first of the view.
func (q *queue) findFirst() {
	key := ""
	for k, e := range q.keys {
		if key == "" || e.created < q.keys[key].created {
			key = k
		}
	}
	e := q.keys[key]
	if q.first != nil {
		if q.first.key == key && q.first.entry.created == e.created {
			return
		}
		close(q.first.gone)
		q.first = nil
	}
	if key != "" {
		q.first = &first{key: key, entry: e, owner: ownerOf(e.owner), gone: make(chan struct{})}
	}
}

// dropIdle forgets the names that nobody has used for a while, and ends the watch
// with the last of them.
func (l *Locker) dropIdle() (ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, q := range l.queues {
		if len(q.places) == 0 && time.Since(q.lastUsed) >= l.idle {
			delete(l.queues, name)
		}
	}
	if len(l.queues) > 0 {
		return false
	}
	l.unfollow()
	l.unfollow = nil
	return true
}

func (l *Locker) anyWaits() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		for _, p := range q.places {
			if p.state == waiting {
				return true
			}
		}
	}
	return false
}
