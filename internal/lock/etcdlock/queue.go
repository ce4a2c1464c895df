package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// queue is the view of one name's keys in etcd, and our places among them.
type queue struct {
	prefix string // of its keys
	stop   context.CancelFunc

	// These are guarded by the Locker.
	revision int64             // that the view is as of
	created  map[string]int64  // the view: create revisions by key
	places   map[string]*place // ours, by key
	lastUsed time.Time         // when a place ended
}

// keysOf is how the queue's keys under a lease begin.
func (q *queue) keysOf(ls *ownLease) string { return fmt.Sprintf("%s%x-", q.prefix, ls.id) }

// queueFor is the queue of name. Its watch is opened with the first place.
func (l *Locker) queueFor(name string) *queue {
	q := l.queues[name]
	if q == nil {
		ctx, stop := context.WithCancel(l.ctx)
		q = &queue{
			prefix: l.cfg.Prefix + name + "/", stop: stop,
			created: map[string]int64{}, places: map[string]*place{}, lastUsed: time.Now(),
		}
		l.queues[name] = q
		l.start(func() { l.follow(ctx, name, q) })
	}
	return q
}

// isPlace reports whether a place of ours stands for key.
func (l *Locker) isPlace(key string) bool {
	rest, ok := strings.CutPrefix(key, l.cfg.Prefix)
	if !ok {
		return false
	}
	name, _, _ := strings.Cut(rest, "/")
	q := l.queues[name]
	return q != nil && q.places[key] != nil
}

// follow keeps a queue's view up to date until nobody has used it for a while.
func (l *Locker) follow(ctx context.Context, name string, q *queue) {
	defer q.stop()
	for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
		began := time.Now()
		err := l.watch(ctx, name, q)
		if ctx.Err() != nil || l.dropIdle(name, q) {
			return
		}
		if time.Since(began) > retryPauseMax {
			pause = retryPause // it had worked
		}
		l.cfg.Logger.Warn("etcd lock opens a watch again", "name", name, "error", err)
		sleep(ctx, jittered(pause))
		if l.anyWaits(q) {
			_ = l.catchUp(ctx, q, 0) // while there is no watch; it will be tried again
		}
	}
}

var errWatchEnded = errors.New("the watch ended")

// watch feeds the view from one watch, until that fails or the queue is closed.
func (l *Locker) watch(ctx context.Context, name string, q *queue) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel() // one that failed must be cancelled as well
	// Without a required leader, a node that was cut off would go on saying
	// nothing. All watches have the same metadata, and thus share one stream.
	opening := time.AfterFunc(openTimeout, cancel) // Watch waits until it is open
	events := l.cfg.Client.Watch(clientv3.WithRequireLeader(watching), q.prefix,
		clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	opening.Stop()
	ticker := time.NewTicker(l.watchTick())
	defer ticker.Stop()
	heard := false // since the last tick
	for {
		select {
		case r, ok := <-events:
			if !ok {
				return errWatchEnded
			}
			if err := r.Err(); err != nil {
				return err
			}
			if r.Created {
				if err := l.catchUp(ctx, q, r.Header.Revision); err != nil {
					return err
				}
			}
			heard = true
			l.apply(q, r.Events)
		case <-ticker.C:
			if l.dropIdle(name, q) {
				return nil
			}
			// A node can hang without closing its streams. Who waits must not
			// depend on it: the list comes from whichever node answers.
			if !heard && l.anyWaits(q) {
				if err := l.catchUp(ctx, q, 0); err != nil {
					return err
				}
			}
			heard = false
		}
	}
}

// watchTick is how often a watch is looked after.
func (l *Locker) watchTick() time.Duration { return min(l.cfg.TTL, l.idle) }

// catchUp brings the view to that revision at least, by a list; 0 is the newest.
func (l *Locker) catchUp(ctx context.Context, q *queue, revision int64) error {
	l.mu.Lock()
	reached := revision > 0 && q.revision >= revision
	l.mu.Unlock()
	if reached {
		return nil // by the answer of a transaction
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	answer, err := l.cfg.Client.Get(ctx, q.prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("list %s: %w", q.prefix, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.install(q, answer.Header.Revision, answer.Kvs)
	l.decide(q)
	return nil
}

// install replaces an older view by a list of the queue at that revision.
func (l *Locker) install(q *queue, revision int64, kvs []*mvccpb.KeyValue) {
	if revision <= q.revision {
		return
	}
	q.revision = revision
	clear(q.created)
	for _, kv := range kvs {
		l.appeared(q, kv)
	}
}

// apply brings the view forward by events of the watch. Those that it already
// holds, from a list or an answer, are skipped.
func (l *Locker) apply(q *queue, events []*clientv3.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := q.revision // one revision may have several events
	for _, event := range events {
		if event.Kv.ModRevision <= known {
			continue
		}
		q.revision = event.Kv.ModRevision
		if event.Type == clientv3.EventTypeDelete {
			delete(q.created, string(event.Kv.Key))
		} else {
			l.appeared(q, event.Kv)
		}
	}
	l.decide(q)
}

// appeared takes a key into the view. A key of ours without a place is one that
// a request left behind.
func (l *Locker) appeared(q *queue, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	q.created[key] = kv.CreateRevision
	// The key's name says whose it is: a list of keys alone does not always tell
	// their leases.
	if ls := l.lease; ls != nil && strings.HasPrefix(key, q.keysOf(ls)) && q.places[key] == nil {
		l.discard(ls, key, kv.CreateRevision)
	}
}

// decide draws the consequences of a change of the view or of our places.
func (l *Locker) decide(q *queue) {
	for _, p := range q.places {
		_, stands := q.created[p.key]
		if !stands && p.revision > 0 && p.revision <= q.revision {
			l.end(p, errVanished)
		}
	}
	first := ""
	for key, created := range q.created {
		if first == "" || created < q.created[first] {
			first = key
		}
	}
	p := q.places[first]
	if p == nil {
		return
	}
	if p.state == waiting && p.lease.alive() {
		p.state = held
		close(p.turn)
	}
	if p.state == held && len(q.created) > 1 && !p.told {
		p.told = true
		close(p.wanted)
	}
}

// dropIdle closes a queue that nobody has used for a while.
func (l *Locker) dropIdle(name string, q *queue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(q.places) > 0 || time.Since(q.lastUsed) < l.idle {
		return false
	}
	delete(l.queues, name)
	q.stop()
	return true
}

func (l *Locker) anyWaits(q *queue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range q.places {
		if p.state == waiting {
			return true
		}
	}
	return false
}
