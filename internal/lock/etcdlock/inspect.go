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

var _ lock.Viewer = (*Locker)(nil)

// Holder returns the holder of name from the view. For a name that has not been
// used for a while there is no view until the next TryLock.
func (l *Locker) Holder(name string) (lock.Holder, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[name]
	if q == nil || q.holder == nil {
		return lock.Holder{}, false
	}
	q.lastUsed = time.Now()
	h := q.holder
	return lock.Holder{
		Token: lock.Token(h.created), Mine: q.places[h.key] != nil,
		Process: h.owner.Process, Addr: h.owner.Addr, Gone: h.gone,
	}, true
}

// Evict deletes the first key of name's queue, if its create revision is token. See
// the protocol.
func (l *Locker) Evict(ctx context.Context, name string, token lock.Token) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("evict the holder of %s: %w", name, err)
		}
	}()
	l.mu.Lock()
	q := l.queues[name]
	if q == nil || q.holder == nil || lock.Token(q.holder.created) != token {
		l.mu.Unlock()
		return lock.ErrNotHeld
	}
	key := q.holder.key
	l.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	answer, err := deleteKey(ctx, l.cfg.Client, key, int64(token))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if q := l.queues[name]; q != nil { // the view may have been dropped meanwhile
		l.replace(q, answer.Header.Revision, listed(answer))
	}
	if !answer.Succeeded {
		return lock.ErrNotHeld
	}
	return nil
}

type inspector struct {
	client *clientv3.Client
	prefix string
}

// Inspect lists the locks that are held, and their waiters.
func (i inspector) Inspect(ctx context.Context) ([]lock.Info, error) {
	answer, err := i.client.Get(ctx, i.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, fmt.Errorf("list the locks in etcd: %w", err)
	}
	slices.SortFunc(answer.Kvs, func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
	list := []lock.Info{}
	index := map[string]int{} // in list, by name
	for _, kv := range answer.Kvs {
		name, place, ok := strings.Cut(strings.TrimPrefix(string(kv.Key), i.prefix), "/")
		if !ok {
			continue // not a key of a queue
		}
		owner := ownerOf(kv.Value)
		if at, held := index[name]; held {
			list[at].Queue = append(list[at].Queue, owner.text(place))
			continue
		}
		index[name] = len(list)
		list = append(list, lock.Info{
			Name: name, Holder: owner.text(place), Replica: owner.Replica, Token: lock.Token(kv.CreateRevision), Since: owner.Since, Addr: owner.Addr,
		})
	}
	lock.SortInfos(list)
	return list, nil
}

// Revoke deletes the holder's key. Its other locks are not affected. The holder of
// a Locker notices at once, that of a Try at its next renewal, and that of a
// Textbook never.
func (i inspector) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	first, err := i.client.Get(ctx, i.prefix+name+"/", append(clientv3.WithFirstCreate(), clientv3.WithKeysOnly())...)
	if err == nil && len(first.Kvs) == 0 {
		err = lock.ErrNotHeld
	}
	if err != nil {
		return fmt.Errorf("revoke %s: %w", name, err)
	}
	kv := first.Kvs[0]
	done, err := deleteKey(ctx, i.client, string(kv.Key), kv.CreateRevision)
	if err == nil && !done.Succeeded {
		err = fmt.Errorf("the grant has just ended: %w", lock.ErrNotHeld)
	}
	if err != nil {
		return fmt.Errorf("revoke %s: %w", name, err)
	}
	return nil
}

// ownerOf reads the value of a key. It returns a zero Owner for a foreign value.
func ownerOf(value []byte) (o Owner) {
	_ = json.Unmarshal(value, &o)
	return o
}

func (o Owner) value() string {
	o.Since = time.Now()
	value, err := json.Marshal(o)
	if err != nil {
		panic(err) // cannot happen: strings, an int and a time
	}
	return string(value)
}

// text identifies the owner for people, or is place where the owner is unknown.
func (o Owner) text(place string) string {
	if o.Replica == "" {
		return place
	}
	return fmt.Sprintf("%s@%s:%d", o.Replica, o.Host, o.PID)
}
