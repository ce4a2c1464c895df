// Exercise write-a-lock: see README.md. Fix Lock and its grants.
package main

import (
	"context"
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
	answer, err := l.client.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if len(answer.Kvs) > 0 {
		return nil, lock.ErrHeld
	}
	lease, err := l.client.Grant(ctx, int64(l.ttl/time.Second))
	if err != nil {
		return nil, err
	}
	if _, err := l.client.Put(ctx, key, l.owner, clientv3.WithLease(lease.ID)); err != nil {
		return nil, err
	}
	return &Held{client: l.client, key: key}, nil
}

// Lock tries until the lock is free.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	for {
		held, err := l.TryLock(ctx, name)
		if err == nil {
			return held, nil
		}
		time.Sleep(pause)
	}
}

// Close ends the Locker.
func (l *Locker) Close(context.Context) error { return nil }

// Held is one grant.
type Held struct {
	client *clientv3.Client
	key    string
}

// Token is larger for each later grant.
func (h *Held) Token() lock.Token { return 0 }

// Lost is closed when the grant has ended.
func (h *Held) Lost() <-chan struct{} { return nil }

// Contended is nil: this lock cannot tell who waits.
func (h *Held) Contended() <-chan struct{} { return nil }

// Unlock deletes the key.
func (h *Held) Unlock(ctx context.Context) error {
	_, err := h.client.Delete(ctx, h.key)
	return err
}

func main() {
	shop.Serve(shop.Code{NewLocker: func(client *clientv3.Client, owner string, ttl time.Duration) lock.Locker {
		return &Locker{client: client, owner: owner, ttl: ttl}
	}})
}
