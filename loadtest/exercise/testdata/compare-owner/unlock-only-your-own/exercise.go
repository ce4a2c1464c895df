// Exercise unlock-only-your-own: see README.md. Fix Unlock.
package main

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/loadtest/exercise/shop"
)

// leaseSeconds is how long a lock survives its process.
const leaseSeconds = 60

const key = "lock/" + shop.SKU

// Lock is a lock in etcd: whoever has created its key holds it.
type Lock struct {
	client *clientv3.Client
	owner  string // differs from process to process
}

// TryLock creates the key, unless it exists.
func (l *Lock) TryLock(ctx context.Context) (bool, error) {
	lease, err := l.client.Grant(ctx, leaseSeconds)
	if err != nil {
		return false, err
	}
	answer, err := l.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)). // there is no such key
		Then(clientv3.OpPut(key, l.owner, clientv3.WithLease(lease.ID))).
		Commit()
	if err != nil {
		return false, err
	}
	return answer.Succeeded, nil
}

// Unlock deletes the key.
func (l *Lock) Unlock(ctx context.Context) error {
	_, err := l.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(key), "=", l.owner)).
		Then(clientv3.OpDelete(key)).
		Commit()
	return err
}

func main() {
	shop.Serve(shop.Code{NewTryLock: func(client *clientv3.Client, owner string) shop.TryLock {
		return &Lock{client: client, owner: owner}
	}})
}
