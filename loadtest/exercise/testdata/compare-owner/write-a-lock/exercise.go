// Exercise write-a-lock: see README.md. Fix Lock and its grants.
package main

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
	"flashsale/loadtest/exercise/shop"
)

// pause is the wait between two attempts of Lock.
const pause = 20 * time.Millisecond

// Locker is a lock.Locker in etcd: whoever has created the key of a name holds it.
type Locker struct {
	client *clientv3.Client
	owner  string // differs from process to process
	ttl    time.Duration
}

// TryLock creates the key, unless it exists.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	key := "lock/" + name
	lease, err := l.client.Grant(ctx, int64(l.ttl/time.Second))
	if err != nil {
		return nil, err
	}
	answer, err := l.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, l.owner, clientv3.WithLease(lease.ID))).
		Commit()
	if err != nil || !answer.Succeeded {
		l.revoke(ctx, lease.ID) // also if the answer was lost, and the key is there
		if err == nil {
			err = lock.ErrHeld
		}
		return nil, err
	}
	h := &Held{locker: l, key: key, lease: lease.ID, revision: answer.Header.Revision, lost: make(chan struct{})}
	renewing, stop := context.WithCancel(context.Background())
	h.stop = stop
	renewed, err := l.client.KeepAlive(renewing, lease.ID)
	if err != nil {
		stop()
		l.revoke(ctx, lease.ID)
		return nil, err
	}
	go func() {
		for range renewed { // ends when the lease has ended, or with stop
		}
		close(h.lost)
	}()
	return h, nil
}

// revoke ends a lease with its key, also if ctx has ended.
func (l *Locker) revoke(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = l.client.Revoke(ctx, lease) // if this fails, the lease ends by itself
}

// Lock tries until the lock is free.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	for {
		held, err := l.TryLock(ctx, name)
		if !errors.Is(err, lock.ErrHeld) {
			return held, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the Locker.
func (l *Locker) Close(context.Context) error { return nil }

// Held is one grant.
type Held struct {
	locker   *Locker
	key      string
	lease    clientv3.LeaseID
	revision int64 // that created the key
	lost     chan struct{}
	stop     func() // stops the renewals
}

// Token is larger for each later grant.
func (h *Held) Token() lock.Token { return lock.Token(h.revision) }

// Lost is closed when the grant has ended.
func (h *Held) Lost() <-chan struct{} { return h.lost }

// Contended is nil: this lock cannot tell who waits.
func (h *Held) Contended() <-chan struct{} { return nil }

// Unlock deletes the key.
func (h *Held) Unlock(ctx context.Context) error {
	h.stop()
	defer h.locker.revoke(ctx, h.lease)
	answer, err := h.locker.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(h.key), "=", h.locker.owner)).
		Then(clientv3.OpDelete(h.key)).
		Commit()
	if err != nil {
		return err
	}
	if !answer.Succeeded {
		return lock.ErrLost
	}
	return nil
}

func main() {
	shop.Serve(shop.Code{NewLocker: func(client *clientv3.Client, owner string, ttl time.Duration) lock.Locker {
		return &Locker{client: client, owner: owner, ttl: ttl}
	}})
}
