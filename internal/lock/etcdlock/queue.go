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

// queue is the view of one name's keys in etcd, and this process's places in it.
type queue struct {
	name   string
	prefix string // of its keys

	// These are guarded by the Locker.
	complete bool              // a list has arrived
	early    []*clientv3.Event // events that arrived before the list
	revision int64             // of the view
	keys     map[string]entry  // the view, by key
	holder   *holder           // nil when the view is empty
	places   map[string]*place // of this process, by key
	lastUsed time.Time         // when a place ended, or Holder was called
}

type entry struct {
	created int64  // its create revision
	value   []byte // names its owner
}

type holder struct {
	key     string
	created int64
	owner   Owner
	gone    chan struct{} // closed when another key, or none, is the first
}

// keysOf is the common prefix of the queue's keys under a lease.
func (q *queue) keysOf(ls *sharedLease) string { return fmt.Sprintf("%s%x-", q.prefix, ls.id) }

// queueFor returns the queue of name. The first queue opens the watch.
func (l *Locker) queueFor(name string) *queue {
	q := l.queues[name]
	if q == nil {
		q = &queue{
			name: name, prefix: l.cfg.Prefix + name + "/",
			keys: map[string]entry{}, places: map[string]*place{}, lastUsed: time.Now(),
		}
		l.queues[name] = q
		if l.stopWatch == nil {
			ctx, stop := context.WithCancel(l.ctx)
			l.stopWatch = stop
			l.start(func() { l.follow(ctx) })
		}
	}
	return q
}

// queueOf returns the queue of a key, or nil if that queue is not in use.
func (l *Locker) queueOf(key string) *queue {
	name, _, _ := strings.Cut(strings.TrimPrefix(key, l.cfg.Prefix), "/")
	return l.queues[name]
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

func (l *Locker) watchTick() time.Duration { return min(l.cfg.TTL, l.idle) }

// catchUp brings all views to revision or later, by a list of all keys. Revision 0
// means the newest.
func (l *Locker) catchUp(ctx context.Context, revision int64) error {
	if revision > 0 && l.viewsReached(revision) {
		return nil // transactions have brought newer views
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
		q := l.queueOf(string(kv.Key))
		listed[q] = append(listed[q], kv)
	}
	for _, q := range l.queues {
		l.replace(q, answer.Header.Revision, listed[q])
	}
	return nil
}

func (l *Locker) viewsReached(revision int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queues {
		if !q.complete || q.revision < revision {
			return false
		}
	}
	return true
}

// replace replaces an older view by the queue's keys as of revision. It then
// updates the places, also when the view is newer already.
func (l *Locker) replace(q *queue, revision int64, kvs []*mvccpb.KeyValue) {
	defer l.update(q)
	if revision <= q.revision {
		return
	}
	q.revision = revision
	clear(q.keys)
	for _, kv := range kvs {
		l.add(q, kv)
	}
	early := q.early
	q.complete, q.early = true, nil
	for _, event := range early {
		if event.Kv.ModRevision > revision {
			l.applyEvent(q, event)
		}
	}
}

// apply applies the watch's events to the views. It skips those that a view already
// includes, from a list or an answer.
func (l *Locker) apply(events []*clientv3.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := map[*queue]int64{} // revisions before these events; a revision may have several
	for _, event := range events {
		q := l.queueOf(string(event.Kv.Key))
		if q == nil {
			continue
		}
		if _, ok := before[q]; !ok {
			before[q] = q.revision
		}
		switch {
		case !q.complete:
			q.early = append(q.early, event)
		case event.Kv.ModRevision > before[q]:
			l.applyEvent(q, event)
		}
	}
	for q := range before {
		l.update(q)
	}
}

func (l *Locker) applyEvent(q *queue, event *clientv3.Event) {
	q.revision = event.Kv.ModRevision
	if event.Type == clientv3.EventTypeDelete {
		delete(q.keys, string(event.Kv.Key))
	} else {
		l.add(q, event.Kv)
	}
}

// add adds a key to the view. It deletes a key of our lease that has no place: a
// request without an answer created it.
func (l *Locker) add(q *queue, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	q.keys[key] = entry{created: kv.CreateRevision, value: kv.Value}
	// By the key's name, because a list of keys does not always have their leases.
	if ls := l.lease; ls != nil && strings.HasPrefix(key, q.keysOf(ls)) && q.places[key] == nil {
		l.deleteLater(ls, key, kv.CreateRevision)
	}
}

// update changes the states of the places after a change of the view or of a place.
func (l *Locker) update(q *queue) {
	for _, p := range q.places {
		if _, exists := q.keys[p.key]; !exists && p.revision > 0 && p.revision <= q.revision {
			l.end(p, errRemoved)
		}
	}
	q.findHolder()
	if q.holder == nil || q.places[q.holder.key] == nil {
		return
	}
	p := q.places[q.holder.key]
	if p.state == waiting && p.lease.Alive() {
		p.state = held
		close(p.turn)
	}
	if p.state == held && len(q.keys) > 1 && !p.contendedClosed {
		p.contendedClosed = true
		close(p.contended)
	}
}

func (q *queue) findHolder() {
	first := ""
	for key, e := range q.keys {
		if first == "" || e.created < q.keys[first].created {
			first = key
		}
	}
	e := q.keys[first]
	if q.holder != nil {
		if q.holder.key == first && q.holder.created == e.created {
			return
		}
		close(q.holder.gone)
		q.holder = nil
	}
	if first != "" {
		q.holder = &holder{key: first, created: e.created, owner: ownerOf(e.value), gone: make(chan struct{})}
	}
}

// dropIdle forgets the names that have not been used for a while. It ends the watch
// when none is left.
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
	l.stopWatch()
	l.stopWatch = nil
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
