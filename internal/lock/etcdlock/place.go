package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
)

// state of a place. See the package's comment.
type state int

const (
	asked   state = iota // its key was sent to etcd, which has not answered
	waiting              // its key stands in the queue
	held                 // its key is the first
	leaving              // its key's deletion was sent
	gone
)

// where in the queue a new place is good for its caller.
type where bool

const (
	anywhere  where = false
	onlyFirst where = true // else it is not taken at all: lock.ErrHeld
)

// errVanished: the key or its lease has ended; another place may be taken.
// errSilent: the lease was not renewed in time; etcd has not said that it ended.
var (
	errVanished = errors.New("the place in the queue was removed")
	errSilent   = fmt.Errorf("%w: etcd did not answer", errVanished)
)

// place is one place in the queue of a name, and the grant that it becomes.
type place struct {
	locker *Locker
	queue  *queue
	lease  *ownLease
	key    string
	turn   chan struct{} // closed when it is held, or gone without having been
	lost   chan struct{}
	wanted chan struct{}

	// These are guarded by the Locker. revision and err may be read after turn.
	state    state
	revision int64 // its key's create revision; 0 while that is unknown
	told     bool  // wanted is closed
	err      error // why it is gone
}

// queueUp asks etcd for a place. The request is not bound to ctx: one that is
// cut off may still be applied, and nobody would know the key's revision.
func (l *Locker) queueUp(ctx context.Context, name string, w where) (*place, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ls, err := l.leaseFor(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	if !ls.alive() {
		return nil, errVanished
	}
	p := l.newPlace(l.queueFor(name), ls)
	l.start(func() { l.create(p, w) })
	return p, nil
}

// newPlace is a place whose key is about to be asked for.
func (l *Locker) newPlace(q *queue, ls *ownLease) *place {
	l.places++
	p := &place{
		locker: l, queue: q, lease: ls,
		key:  fmt.Sprint(q.keysOf(ls), l.places),
		turn: make(chan struct{}), lost: make(chan struct{}), wanted: make(chan struct{}),
	}
	q.places[p.key] = p
	return p
}

// create makes the key of a place, and takes in the answer.
func (l *Locker) create(p *place, w where) {
	free := clientv3.Compare(clientv3.CreateRevision(p.key), "=", 0)
	if w == onlyFirst {
		free = clientv3.Compare(clientv3.CreateRevision(p.queue.prefix), "=", 0).WithPrefix()
	}
	list := listOf(p.queue.prefix)
	// What was handed to a leader as it died has no answer: ask again before long.
	// An etcd that is just slow could not renew the lease in this time either.
	ctx, cancel := context.WithTimeout(l.ctx, p.lease.attempt())
	defer cancel()
	answer, err := l.cfg.Client.Txn(ctx).If(free).Then(l.put(p), list).Else(list).Commit()

	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.createFailed(p, err)
		return
	}
	l.created(p, answer)
}

// put is the operation that makes a place's key.
func (l *Locker) put(p *place) clientv3.Op {
	return clientv3.OpPut(p.key, l.cfg.Owner.value(), clientv3.WithLease(p.lease.id))
}

// created takes in the answer to a transaction that was to make a place's key.
func (l *Locker) created(p *place, answer *clientv3.TxnResponse) {
	kvs := listed(answer)
	revision := int64(0)
	for _, kv := range kvs {
		if string(kv.Key) == p.key {
			revision = kv.CreateRevision
		}
	}
	if p.state != gone {
		p.revision = revision
		if revision > 0 {
			p.state = waiting
		} else {
			l.end(p, lock.ErrHeld)
		}
	} else if revision > 0 { // its caller left while it was asked for
		l.discard(p.lease, p.key, revision)
	}
	l.install(p.queue, answer.Header.Revision, kvs)
	l.decide(p.queue)
}

// createFailed ends a place whose key may or may not come to stand.
func (l *Locker) createFailed(p *place, err error) {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		if l.lease == p.lease {
			l.loseLease(p.lease, err)
		}
		l.end(p, errVanished)
		return
	}
	l.end(p, err)
	l.discard(p.lease, p.key, p.queue.keys[p.key].created)
}

// wait waits until the place is the first. Whoever gives up leaves the queue.
func (p *place) wait(ctx context.Context) error {
	l := p.locker
	select {
	case <-p.turn:
		l.mu.Lock()
		defer l.mu.Unlock()
		if p.state != held { // perhaps no longer: then nothing was done under it
			return p.err
		}
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		revision := p.revision
		stood := p.state == waiting || p.state == held
		l.end(p, ctx.Err())
		if stood {
			l.discard(p.lease, p.key, revision)
		}
		return ctx.Err()
	}
}

// end takes a place out of use. What may stand in etcd is left to the caller.
func (l *Locker) end(p *place, err error) {
	switch p.state {
	case gone:
		return
	case asked, waiting:
		close(p.turn)
	case held:
		close(p.lost)
	}
	p.state, p.err = gone, err
	delete(p.queue.places, p.key)
	p.queue.lastUsed = time.Now()
}

// discard deletes a key that nobody waits for, however long that takes, unless
// the lease ends before. With revision 0 it deletes whatever stands there: only
// this process ever makes a key of this name, and only once. A request that was
// handed to a leader as it died has no answer: it is sent again before long.
func (l *Locker) discard(ls *ownLease, key string, revision int64) {
	if ls.strays[key] || !ls.alive() {
		return
	}
	ls.strays[key] = true
	l.start(func() {
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(ls.strays, key)
		}()
		for pause := retryPause; ; pause = min(2*pause, retryPauseMax) {
			ctx, cancel := context.WithTimeout(l.ctx, ls.attempt())
			_, err := l.deleteKey(ctx, key, revision)
			cancel()
			if err == nil {
				return
			}
			select {
			case <-ls.kept.Lost():
				return
			case <-time.After(sleep.Jittered(pause)):
			}
		}
	})
}

// deleteKey deletes key if it is still the one of that revision; 0 is any. The
// answer lists the queue that key stood in.
func (l *Locker) deleteKey(ctx context.Context, key string, revision int64) (*clientv3.TxnResponse, error) {
	same := clientv3.Compare(clientv3.CreateRevision(key), "=", revision)
	if revision == 0 {
		same = clientv3.Compare(clientv3.CreateRevision(key), ">", 0)
	}
	list := listOf(key[:strings.LastIndexByte(key, '/')+1])
	return l.cfg.Client.Txn(ctx).If(same).Then(clientv3.OpDelete(key), list).Else(list).Commit()
}

// listOf reads a queue.
func listOf(prefix string) clientv3.Op { return clientv3.OpGet(prefix, clientv3.WithPrefix()) }

// listed is what listOf read, as the last operation of a transaction.
func listed(answer *clientv3.TxnResponse) []*mvccpb.KeyValue {
	return answer.Responses[len(answer.Responses)-1].GetResponseRange().Kvs
}

// Token is the create revision of the key: later grants have larger ones.
func (p *place) Token() lock.Token { return lock.Token(p.revision) }

// Lost is closed at the lease's deadline, or when the key is seen to be gone.
func (p *place) Lost() <-chan struct{} { return p.lost }

// Silent reports whether the grant was given up because etcd did not answer.
func (p *place) Silent() bool {
	p.locker.mu.Lock()
	defer p.locker.mu.Unlock()
	return errors.Is(p.err, errSilent)
}

// Wanted is closed when another key stands behind this one.
func (p *place) Wanted() <-chan struct{} { return p.wanted }

// Unlock deletes the key. When etcd does not answer in a third of the TTL, the
// outcome is unknown to the caller; the key is then deleted in the background.
func (p *place) Unlock(ctx context.Context) error {
	l := p.locker
	l.mu.Lock()
	l.liveLease() // a deadline may have passed unnoticed
	if p.state != held {
		l.mu.Unlock()
		return lock.ErrLost
	}
	p.state = leaving
	l.mu.Unlock()

	// Bounded, so that who waits behind a leader that died with this request is
	// let in by the next one; see discard.
	ctx, cancel := context.WithTimeout(ctx, p.lease.attempt())
	defer cancel()
	answer, err := l.deleteKey(ctx, p.key, p.revision)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(p, lock.ErrLost)
	if err != nil {
		l.discard(p.lease, p.key, p.revision)
		return fmt.Errorf("unlock %s: %w", p.key, err)
	}
	// Only a view as of the deletion tells which place is next: whoever stood
	// behind this one when it was last looked at may have gone before it.
	l.install(p.queue, answer.Header.Revision, listed(answer))
	l.decide(p.queue)
	if !answer.Succeeded {
		return lock.ErrLost
	}
	return nil
}
