package etcdlock

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
)

// Inspect lists the locks that are held, with who waits for them.
func (l *Locker) Inspect(ctx context.Context) ([]lock.Info, error) {
	return inspect(ctx, l.cfg.Client, l.cfg.Prefix)
}

// Revoke removes the holder's place. Its other locks, under the same lease, stay.
func (l *Locker) Revoke(ctx context.Context, name string) error {
	return revoke(ctx, l.cfg.Client, l.cfg.Prefix, name)
}

// Inspect lists the locks that are held. The library's mutex writes down no
// owner: the holder is the name of its lease.
func (t *Textbook) Inspect(ctx context.Context) ([]lock.Info, error) {
	list, err := inspect(ctx, t.cfg.Client, t.cfg.Prefix)
	for i := range list {
		list[i].Token = 0 // it gives none out
	}
	return list, err
}

// Revoke removes the holder's place. It does not hear of it.
func (t *Textbook) Revoke(ctx context.Context, name string) error {
	return revoke(ctx, t.cfg.Client, t.cfg.Prefix, name)
}

func inspect(ctx context.Context, client *clientv3.Client, prefix string) ([]lock.Info, error) {
	answer, err := client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the locks in etcd: %w", err)
	}
	// The queue's order is that of creation.
	slices.SortFunc(answer.Kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
	queues := map[string]*lock.Info{}
	for _, kv := range answer.Kvs {
		name, place, ok := strings.Cut(strings.TrimPrefix(string(kv.Key), prefix), "/")
		if !ok {
			continue // it is no place in a queue
		}
		owner := ownerOf(kv.Value)
		if queue := queues[name]; queue != nil {
			queue.Queue = append(queue.Queue, owner.text(place))
			continue
		}
		queues[name] = &lock.Info{
			Name: name, Holder: owner.text(place), Replica: owner.Replica, Token: lock.Token(kv.CreateRevision), Since: owner.Since, Addr: owner.Addr,
		}
	}
	list := make([]lock.Info, 0, len(queues))
	for _, queue := range queues {
		list = append(list, *queue)
	}
	slices.SortFunc(list, func(a, b lock.Info) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// ownerOf reads what a place says of its owner: nothing, where it is not ours.
func ownerOf(value []byte) (o Owner) {
	_ = json.Unmarshal(value, &o)
	return o
}

// value is what stands in a key that is asked for now.
func (o Owner) value() string {
	o.Since = time.Now()
	value, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings, an int and a time
	}
	return string(value)
}

func (o Owner) text(place string) string {
	if o.Replica == "" {
		return place
	}
	return fmt.Sprintf("%s@%s:%d", o.Replica, o.Host, o.PID)
}

func revoke(ctx context.Context, client *clientv3.Client, prefix, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	queue := prefix + name + "/"
	first, err := client.Get(ctx, queue, append(clientv3.WithFirstCreate(), clientv3.WithKeysOnly())...)
	if err != nil {
		return fmt.Errorf("revoke %s: %w", name, err)
	}
	if len(first.Kvs) == 0 {
		return fmt.Errorf("revoke %s: %w", name, lock.ErrNotHeld)
	}
	kv := first.Kvs[0]
	// Compared: the next holder must not be hit in its place.
	done, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(string(kv.Key)), "=", kv.CreateRevision)).
		Then(clientv3.OpDelete(string(kv.Key))).Commit()
	if err != nil {
		return fmt.Errorf("revoke %s: %w", name, err)
	}
	if !done.Succeeded {
		return fmt.Errorf("revoke %s: its grant ended just now: %w", name, lock.ErrNotHeld)
	}
	return nil
}
