package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// TryCapabilities are what a Try promises. Who waits stands nowhere, and whoever
// is the first to ask after a release is in.
var TryCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, Restart: true, LockTrips: 3, UnlockTrips: 2,
}

// Try is a lock.Locker without a queue, for callers that would rather be refused
// than wait: a name is one key,
//
//	take     If CreateRevision(key) = 0    Then Put(key, owner, lease) Else Get(key)
//	release  If CreateRevision(key) = rev  Then Delete(key)
//
// and TryLock says at once whose it is. Lock waits for the key's deletion by a
// watch, and then tries again, as all others do that waited. The create revision
// is the fencing token.
//
// Each grant has a lease of its own, unlike a Locker's: a key that a request made
// after its caller had gone then ends by itself, while one under a lease that
// others keep alive would have to be found and deleted. It costs a write more for
// each grant. To revoke the lease settles such a request, come or still to come.
type Try struct {
	*lease.Locker
	store *tryStore
}

// NewTry makes a Try. It does not talk to etcd yet.
func NewTry(cfg Config) (*Try, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	store := &tryStore{cfg: cfg, grants: map[string]tryGrant{}}
	locker, err := lease.New(lease.Config{
		Store: store, TTL: cfg.TTL, Owner: cfg.Owner.text(""), Changed: store.changed, Final: isFinal,
	})
	if err != nil {
		return nil, err
	}
	return &Try{Locker: locker, store: store}, nil
}

// Inspect lists the locks that are held.
func (t *Try) Inspect(ctx context.Context) ([]lock.Info, error) {
	return inspect(ctx, t.store.cfg.Client, t.store.cfg.Prefix)
}

// Revoke removes the holder's key. The holder hears of it when it renews, a third
// of the TTL later at most.
func (t *Try) Revoke(ctx context.Context, name string) error {
	return revoke(ctx, t.store.cfg.Client, t.store.cfg.Prefix, name)
}

// tryStore is the lease.Store of a Try.
type tryStore struct {
	cfg Config

	mu     sync.Mutex
	grants map[string]tryGrant // by owner, from before its key is asked for
}

type tryGrant struct {
	lease    clientv3.LeaseID
	revision int64 // the key's create revision; 0 while that is unknown
}

// key stands where a queue would: tools that list queues see its holder.
func (s *tryStore) key(name string) string { return s.cfg.Prefix + name + "/holder" }

// Try looks before it writes: a refusal, which is what this lock is for, costs
// etcd no lease.
func (s *tryStore) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	key := s.key(name)
	now, err := s.cfg.Client.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("look at %s in etcd: %w", key, err)
	}
	if len(now.Kvs) > 0 {
		return 0, &lock.HeldError{Holder: ownerOf(now.Kvs[0].Value).text(key)}
	}
	granted, err := s.cfg.Client.Grant(ctx, int64(s.cfg.TTL/time.Second))
	if err != nil {
		return 0, fmt.Errorf("begin a lease in etcd: %w", err)
	}
	s.note(owner, tryGrant{lease: granted.ID})
	answer, err := s.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, s.cfg.Owner.value(), clientv3.WithLease(granted.ID))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		if !isTransient(err) { // else Release settles it
			s.drop(owner)
			_, _ = s.cfg.Client.Revoke(ctx, granted.ID)
		}
		return 0, fmt.Errorf("put %s in etcd: %w", key, err)
	}
	if !answer.Succeeded {
		s.drop(owner)
		_, _ = s.cfg.Client.Revoke(ctx, granted.ID) // else it ends by itself
		return 0, &lock.HeldError{Holder: ownerOf(listed(answer)[0].Value).text(key)}
	}
	s.note(owner, tryGrant{lease: granted.ID, revision: answer.Header.Revision})
	return lock.Token(answer.Header.Revision), nil
}

// Renew extends the lease, and looks whether the key still stands under it.
func (s *tryStore) Renew(ctx context.Context, name, owner string) error {
	g, ok := s.grant(owner)
	if !ok {
		return lock.ErrLost
	}
	_, err := s.cfg.Client.KeepAliveOnce(ctx, g.lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return lock.ErrLost
	}
	if err != nil {
		return fmt.Errorf("renew a lease in etcd: %w", err)
	}
	now, err := s.cfg.Client.Get(ctx, s.key(name), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("look at %s in etcd: %w", s.key(name), err)
	}
	if len(now.Kvs) == 0 || now.Kvs[0].CreateRevision != g.revision {
		return lock.ErrLost
	}
	return nil
}

// Release deletes the key and revokes the lease. Where it is not known whether
// there is a key, the end of the lease ends that as well.
func (s *tryStore) Release(ctx context.Context, name, owner string) error {
	g, ok := s.grant(owner)
	if !ok {
		return lock.ErrLost
	}
	var lost error
	if g.revision > 0 {
		key := s.key(name)
		answer, err := s.cfg.Client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(key), "=", g.revision)).
			Then(clientv3.OpDelete(key)).Commit()
		if err != nil {
			return fmt.Errorf("delete %s in etcd: %w", key, err)
		}
		if !answer.Succeeded {
			lost = lock.ErrLost
		}
	}
	_, err := s.cfg.Client.Revoke(ctx, g.lease)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) && g.revision == 0 {
		return fmt.Errorf("revoke a lease in etcd: %w", err)
	}
	// With the key gone, what is left of the lease ends by itself.
	s.drop(owner)
	return lost
}

// changed waits for the end of the key that stands. A watch of the present is
// opened before the look that shows whether the key was gone already: one from
// the revision of an earlier look would be filed as late (see the package's
// comment).
func (s *tryStore) changed(ctx context.Context, name string) error {
	key := s.key(name)
	// A node can hang without closing its streams: once a TTL, look again.
	watching, cancel := context.WithTimeout(ctx, s.cfg.TTL)
	defer cancel()
	events := s.cfg.Client.Watch(clientv3.WithRequireLeader(watching), key,
		clientv3.WithCreatedNotify(), clientv3.WithFilterPut())
	for r := range events {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch %s in etcd: %w", key, err)
		}
		if len(r.Events) > 0 {
			return nil
		}
		if !r.Created {
			continue
		}
		now, err := s.cfg.Client.Get(watching, key, clientv3.WithKeysOnly())
		if err != nil {
			return fmt.Errorf("look at %s in etcd: %w", key, err)
		}
		if len(now.Kvs) == 0 {
			return nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case watching.Err() != nil:
		return nil
	}
	return fmt.Errorf("watch %s in etcd: the watch ended", key)
}

func (s *tryStore) note(owner string, g tryGrant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants[owner] = g
}

func (s *tryStore) drop(owner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.grants, owner)
}

func (s *tryStore) grant(owner string) (tryGrant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.grants[owner]
	return g, ok
}

// isFinal: etcd refuses, and would refuse the same request again.
func isFinal(err error) bool {
	code := status.Code(err)
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		code = e.Code()
	}
	switch code {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return true
	}
	return errors.Is(err, rpctypes.ErrNoSpace)
}
