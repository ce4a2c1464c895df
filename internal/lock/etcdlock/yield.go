package etcdlock

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
)

// Next is the create revision of the key that stands behind this one, by the
// view. A view is whole as of one revision and keys that come later have larger
// ones, so that no other can come to stand in between.
func (p *place) Next() lock.Token {
	l := p.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	next := int64(0)
	for _, created := range p.queue.created {
		if created > p.revision && (next == 0 || created < next) {
			next = created
		}
	}
	return lock.Token(next)
}

// Yield deletes the key and puts another at the end of the queue, in one
// transaction, and waits for that one's turn.
//
//	yield   If CreateRevision(key) = rev   Then Delete(key), Put(key', owner, lease), Range(prefix/name/)
func (p *place) Yield(ctx context.Context) (lock.Held, error) {
	l := p.locker
	l.mu.Lock()
	l.liveLease() // a deadline may have passed unnoticed
	if p.state != held {
		l.mu.Unlock()
		return nil, lock.ErrLost
	}
	p.state = leaving
	next := l.newPlace(p.queue, p.lease)
	// Not bound to ctx: one that is cut off may still be applied.
	l.start(func() { l.exchange(p, next) })
	l.mu.Unlock()

	err := next.wait(ctx)
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, errVanished), // the new place, and with it the old one
		isTransient(err) && ctx.Err() == nil: // they are deleted behind us
		return l.Lock(ctx, p.queue.name)
	}
	return nil, fmt.Errorf("yield %s: %w", p.queue.name, err)
}

// exchange gives a place up for another one.
func (l *Locker) exchange(p, next *place) {
	same := clientv3.Compare(clientv3.CreateRevision(p.key), "=", p.revision)
	list := listOf(p.queue.prefix)
	ctx, cancel := context.WithTimeout(l.ctx, p.lease.attempt())
	defer cancel()
	answer, err := l.cfg.Client.Txn(ctx).If(same).Then(clientv3.OpDelete(p.key), l.put(next), list).Else(list).Commit()

	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(p, lock.ErrLost)
	if err != nil {
		l.createFailed(next, err)
		l.discard(p.lease, p.key, p.revision)
		return
	}
	if !answer.Succeeded {
		l.end(next, lock.ErrLost)
	}
	l.created(next, answer)
}
