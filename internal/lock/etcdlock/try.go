package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// TryCapabilities are what a Try guarantees. It has no queue: the first to try after
// a release gets the lock.
var TryCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, Restart: true, LockTrips: 3, UnlockTrips: 2,
}

// Try is a lock.Locker without a queue, for callers that prefer a refusal to a wait. A
// name is one key:
//
//	take     If CreateRevision(key) = 0    Then Put(key, owner, lease) Else Get(key)
//	release  If CreateRevision(key) = rev  Then Delete(key)
//
// TryLock names the holder. Lock watches for the deletion of the key and then tries
// again, as all other waiters do. The create revision is the fencing token.
//
// Unlike a Locker's, each grant has its own lease. A key that a late request creates
// then ends by itself; under a shared lease it would have to be found and deleted.
// This costs one more write for each grant. Revoking the lease settles a request with
// a lost answer, whether etcd has applied it already or will.
type Try struct {
	*lease.Locker
	inspector

	store *tryStore
}

// NewTry makes a Try. It does not connect to etcd yet.
func NewTry(cfg Config) (*Try, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	store := &tryStore{cfg: cfg}
	locker, err := lease.New(lease.Config{
		Store: store, TTL: cfg.TTL, Owner: cfg.Owner.text(""), AwaitChange: store.changed, Final: isFinal,
	})
	if err != nil {
		return nil, err
	}
	return &Try{Locker: locker, inspector: inspector{cfg.Client, cfg.Prefix}, store: store}, nil
}

type tryStore struct {
	cfg Config
	// grants has a tryGrant for each owner, from before the request for its key.
	grants sync.Map
}

type tryGrant struct {
	lease    clientv3.LeaseID
	revision int64 // the key's create revision; 0 until it is known
}

// key is in the place of a queue, so that Inspect lists its holder.
func (s *tryStore) key(name string) string { return s.cfg.Prefix + name + "/holder" }

// Try reads before it writes, so that a refusal, the common case of this lock, needs
// no lease.
func (s *tryStore) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	key := s.key(name)
	now, err := s.cfg.Client.Get(ctx, key)
	if err != nil {
		return 0, fmt.Errorf("read %s in etcd: %w", key, err)
	}
	if len(now.Kvs) > 0 {
		return 0, &lock.HeldError{Holder: ownerOf(now.Kvs[0].Value).text(key)}
	}
	granted, err := s.cfg.Client.Grant(ctx, int64(s.cfg.TTL/time.Second))
	if err != nil {
		return 0, fmt.Errorf("begin a lease in etcd: %w", err)
	}
	s.grants.Store(owner, tryGrant{lease: granted.ID})
	answer, err := s.cfg.Client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, s.cfg.Owner.value(), clientv3.WithLease(granted.ID))).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		if !isTransient(err) { // after a transient error, Release settles it
			s.grants.Delete(owner)
			_, _ = s.cfg.Client.Revoke(ctx, granted.ID)
		}
		return 0, fmt.Errorf("put %s in etcd: %w", key, err)
	}
	if !answer.Succeeded {
		s.grants.Delete(owner)
		_, _ = s.cfg.Client.Revoke(ctx, granted.ID) // if this fails, it expires
		return 0, &lock.HeldError{Holder: ownerOf(listed(answer)[0].Value).text(key)}
	}
	s.grants.Store(owner, tryGrant{lease: granted.ID, revision: answer.Header.Revision})
	return lock.Token(answer.Header.Revision), nil
}

// Renew extends the lease, and checks that the key still exists.
func (s *tryStore) Renew(ctx context.Context, name, owner string) error {
	stored, _ := s.grants.Load(owner)
	g, ok := stored.(tryGrant)
	if !ok {
		return lock.ErrLost
	}
	err := keepAlive(ctx, s.cfg.Client, g.lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return lock.ErrLost
	}
	if err != nil {
		return fmt.Errorf("renew a lease in etcd: %w", err)
	}
	now, err := s.cfg.Client.Get(ctx, s.key(name), clientv3.WithKeysOnly())
	if err != nil {
		return fmt.Errorf("read %s in etcd: %w", s.key(name), err)
	}
	if len(now.Kvs) == 0 || now.Kvs[0].CreateRevision != g.revision {
		return lock.ErrLost
	}
	return nil
}

// Release deletes the key and revokes the lease. If the key's revision is unknown,
// revoking the lease deletes the key as well.
func (s *tryStore) Release(ctx context.Context, name, owner string) error {
	stored, _ := s.grants.Load(owner)
	g, ok := stored.(tryGrant)
	if !ok {
		return lock.ErrLost
	}
	var lost error
	if key := s.key(name); g.revision > 0 {
		answer, err := deleteKey(ctx, s.cfg.Client, key, g.revision)
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
	// If the key is deleted but the lease was not revoked, the lease expires.
	s.grants.Delete(owner)
	return lost
}

// changed waits until the key is deleted. It opens a watch at the present, and then
// reads whether the key is gone already. A watch from an earlier read's revision
// would start late (see the package's comment).
func (s *tryStore) changed(ctx context.Context, name string) error {
	key := s.key(name)
	// A node can hang without closing its streams: try again after a TTL.
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
			return fmt.Errorf("read %s in etcd: %w", key, err)
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
