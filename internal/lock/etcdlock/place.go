package etcdlock

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
)

// state of a place. The package's comment has the diagram.
type state int

const (
	requested state = iota // the request for its key has no answer yet
	waiting                // its key is in the queue
	held                   // its key is the first
	leaving                // Unlock has sent the deletion of its key
	gone
)

var (
	// errRemoved ends a place whose key or lease has ended. Lock then queues again.
	errRemoved = errors.New("the key in the queue was removed")
	// errTimedOut ends the places of a lease that was not renewed in time. The lease
	// may still exist in etcd.
	errTimedOut = fmt.Errorf("%w: etcd did not answer", errRemoved)
)

// place is one place in the queue of a name, and the grant that it becomes.
type place struct {
	locker    *Locker
	queue     *queue
	lease     *sharedLease
	key       string
	turn      chan struct{} // closed in state held, or gone without held
	lost      chan struct{} // closed at the lease's deadline, or when the view lacks the key
	contended chan struct{}

	// These are guarded by the Locker. revision may be read after turn is closed.
	state           state
	revision        int64 // the create revision of key; 0 until it is known
	contendedClosed bool
	err             error // why it is gone
}

// enter takes a place in the queue and waits for its grant. With onlyFirst, it
// returns lock.ErrHeld instead of waiting behind another key.
//
// The requests are not bound to ctx: if one were cut off, its key could still be
// created, and this process would not know the revision.
func (l *Locker) enter(ctx context.Context, name string, onlyFirst bool) (*place, error) {
	if err := cmp.Or(lock.CheckName(name), ctx.Err()); err != nil {
		return nil, err
	}
	ls, err := l.leaseFor(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, lock.ErrClosed
	case !ls.Alive():
		return nil, errRemoved
	}
	p := l.newPlace(l.queueFor(name), ls)
	l.start(func() { l.create(p, onlyFirst) })
	l.mu.Unlock()
	select {
	case <-p.turn:
	case <-ctx.Done():
	}
	l.mu.Lock()
	if err := ctx.Err(); err != nil {
		revision, exists := p.revision, p.state == waiting || p.state == held
		l.end(p, err)
		if exists {
			l.deleteLater(p.lease, p.key, revision)
		}
		return nil, err
	}
	if p.state != held { // refused, or lost since turn was closed
		return nil, p.err
	}
	return p, nil
}

func (l *Locker) newPlace(q *queue, ls *sharedLease) *place {
	l.places++
	p := &place{
		locker: l, queue: q, lease: ls,
		key:  fmt.Sprint(q.keysOf(ls), l.places),
		turn: make(chan struct{}), lost: make(chan struct{}), contended: make(chan struct{}),
	}
	q.places[p.key] = p
	return p
}

// create creates the key of a place. With onlyFirst, it does so only if the queue
// is empty.
func (l *Locker) create(p *place, onlyFirst bool) {
	free := clientv3.Compare(clientv3.CreateRevision(p.key), "=", 0)
	if onlyFirst {
		free = clientv3.Compare(clientv3.CreateRevision(p.queue.prefix), "=", 0).WithPrefix()
	}
	put := clientv3.OpPut(p.key, l.cfg.Owner.value(), clientv3.WithLease(p.lease.id))
	list := clientv3.OpGet(p.queue.prefix, clientv3.WithPrefix())
	ctx, cancel := context.WithTimeout(l.ctx, p.lease.requestTimeout())
	defer cancel()
	answer, err := l.cfg.Client.Txn(ctx).If(free).Then(put, list).Else(list).Commit()

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.created(p, answer)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		if l.lease == p.lease {
			l.loseLease(p.lease, err)
		}
		l.end(p, errRemoved)
	default: // the key may exist, or may be created later
		l.end(p, err)
		l.deleteLater(p.lease, p.key, p.queue.keys[p.key].created)
	}
}

// created handles the answer to the transaction of create.
func (l *Locker) created(p *place, answer *clientv3.TxnResponse) {
	kvs := listed(answer)
	revision := int64(0)
	for _, kv := range kvs {
		if string(kv.Key) == p.key {
			revision = kv.CreateRevision
		}
	}
	switch {
	case p.state == gone && revision > 0: // its caller has left
		l.deleteLater(p.lease, p.key, revision)
	case revision > 0:
		p.state, p.revision = waiting, revision
	default:
		l.end(p, lock.ErrHeld)
	}
	l.replace(p.queue, answer.Header.Revision, kvs)
}

// end takes a place out of use. It does not delete the key.
func (l *Locker) end(p *place, err error) {
	switch p.state {
	case gone:
		return
	case requested, waiting:
		close(p.turn)
	case held:
		close(p.lost)
	}
	p.state, p.err = gone, err
	delete(p.queue.places, p.key)
	p.queue.lastUsed = time.Now()
}

// deleteLater deletes a key in the background, until it succeeds or the lease ends. With
// revision 0 it deletes the key whatever its revision is: only this process creates
// a key of this name, and only once.
func (l *Locker) deleteLater(ls *sharedLease, key string, revision int64) {
	if ls.strays[key] || !ls.Alive() {
		return
	}
	ls.strays[key] = true
	l.start(func() {
		_ = backoff.Retry(ls.ctx, func(error) bool { return true }, func() error {
			ctx, cancel := context.WithTimeout(ls.ctx, ls.requestTimeout())
			defer cancel()
			_, err := deleteKey(ctx, l.cfg.Client, key, revision)
			return err
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(ls.strays, key)
	})
}

// deleteKey deletes key if it has this create revision, or any if that is 0. The
// answer lists the key's queue.
func deleteKey(ctx context.Context, client *clientv3.Client, key string, revision int64) (*clientv3.TxnResponse, error) {
	same := clientv3.Compare(clientv3.CreateRevision(key), "=", revision)
	if revision == 0 {
		same = clientv3.Compare(clientv3.CreateRevision(key), ">", 0)
	}
	list := clientv3.OpGet(key[:strings.LastIndexByte(key, '/')+1], clientv3.WithPrefix())
	return client.Txn(ctx).If(same).Then(clientv3.OpDelete(key), list).Else(list).Commit()
}

// listed is the result of the list at the end of a transaction.
func listed(answer *clientv3.TxnResponse) []*mvccpb.KeyValue {
	return answer.Responses[len(answer.Responses)-1].GetResponseRange().Kvs
}

func (p *place) Token() lock.Token          { return lock.Token(p.revision) }
func (p *place) Lost() <-chan struct{}      { return p.lost }
func (p *place) Contended() <-chan struct{} { return p.contended }

// TimedOut reports whether the grant was lost because etcd did not answer.
func (p *place) TimedOut() bool {
	p.locker.mu.Lock()
	defer p.locker.mu.Unlock()
	return errors.Is(p.err, errTimedOut)
}

// Unlock deletes the key. If etcd does not answer within a third of the TTL, the
// outcome is unknown, and the key is deleted in the background.
func (p *place) Unlock(ctx context.Context) error {
	l := p.locker
	l.mu.Lock()
	l.liveLease() // ends the place if the lease has expired
	if p.state != held {
		l.mu.Unlock()
		return lock.ErrLost
	}
	p.state = leaving
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, p.lease.requestTimeout())
	defer cancel()
	answer, err := deleteKey(ctx, l.cfg.Client, p.key, p.revision)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(p, lock.ErrLost)
	if err != nil {
		l.deleteLater(p.lease, p.key, p.revision)
		return fmt.Errorf("unlock %s: %w", p.key, err)
	}
	// The answer's list shows which place is next. An older view would not: the next
	// key in it may have been deleted before this one.
	l.replace(p.queue, answer.Header.Revision, listed(answer))
	if !answer.Succeeded {
		return lock.ErrLost
	}
	return nil
}
