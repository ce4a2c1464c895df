package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// RedlockCapabilities are those of a Redlock. It has no token, because the nodes have no
// common counter.
var RedlockCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 1,
}

// nodeShare is the part of the TTL in which a node must answer, as in redsync.
const nodeShare = 20

// Redlock is a lock.Locker on several Redis servers, by the Redlock algorithm of the
// library redsync: a caller that sets a key on a majority of the nodes in time holds the
// lock. It works while a minority is down.
//
// It depends on time: on clocks of about the same speed, and on nodes that keep their
// data. A node that restarts empty grants the same name again, and three such votes of
// five make a second holder (see the lesson on it). No token can fence that.
//
// Waiters retry after a random pause of 50 to 100 ms. No single server could announce a
// release, and waiters that wake at the same time would split the votes.
type Redlock struct {
	*lease.Locker
	store *redlockStore
}

// NewRedlock makes a Redlock. It does not connect yet.
func NewRedlock(cfg Config) (*Redlock, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if n := len(cfg.Clients); n < 3 || n%2 == 0 {
		return nil, fmt.Errorf("redlock: %d servers, want an odd number of at least three", n)
	}
	s := &redlockStore{ttl: cfg.TTL, prefix: cfg.Prefix, clients: cfg.Clients}
	var pools []redsyncredis.Pool
	for _, client := range cfg.Clients {
		pools = append(pools, boundedPool{goredis.NewPool(client), cfg.TTL / nodeShare})
	}
	s.redsync = redsync.New(pools...)
	locker, err := lease.New(lease.Config{Store: s, TTL: cfg.TTL, Owner: cfg.Owner})
	if err != nil {
		return nil, fmt.Errorf("redlock: %w", err)
	}
	return &Redlock{Locker: locker, store: s}, nil
}

// redlockStore is the lease.Store on the majority of the servers.
type redlockStore struct {
	redsync *redsync.Redsync
	ttl     time.Duration
	prefix  string
	clients []*redis.Client
}

// mutex returns redsync's mutex of one owner. A new one for each call is enough, because
// the owner's name is the only state that matters.
func (s *redlockStore) mutex(name, owner string) *redsync.Mutex {
	return s.redsync.NewMutex(s.prefix+name, redsync.WithExpiry(s.ttl), redsync.WithTries(1),
		redsync.WithTimeoutFactor(1.0/nodeShare), redsync.WithValue(owner),
		redsync.WithGenValueFunc(func() (string, error) { return owner, nil }))
}

// Try asks all nodes at once. Without a majority, it releases what it got.
func (s *redlockStore) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	err := s.mutex(name, owner).TryLockContext(ctx)
	if err == nil {
		return 0, nil
	}
	if votes := countVotes(err); votes.unreachable < s.quorum() && votes.others > 0 {
		return 0, lock.ErrHeld
	}
	return 0, s.failed("take", err)
}

func (s *redlockStore) Renew(ctx context.Context, name, owner string) error {
	renewed, err := s.mutex(name, owner).ExtendContext(ctx)
	return s.outcome("renew", renewed, err)
}

// Release deletes owner's keys. It succeeds if a majority had them.
func (s *redlockStore) Release(ctx context.Context, name, owner string) error {
	released, err := s.mutex(name, owner).UnlockContext(ctx)
	return s.outcome("release", released, err)
}

// outcome returns lock.ErrLost if a majority answers that owner does not hold the key.
func (s *redlockStore) outcome(what string, done bool, err error) error {
	switch {
	case done:
		return nil
	case countVotes(err).others >= s.quorum():
		return lock.ErrLost
	}
	return s.failed(what, err)
}

func (s *redlockStore) quorum() int { return len(s.clients)/2 + 1 }

// votes counts the nodes that did not agree: with another holder, or unreachable.
type votes struct{ others, unreachable int }

// countVotes reads redsync's error, which wraps one error for each such node.
func countVotes(err error) (v votes) {
	switch err := err.(type) { //nolint:errorlint // it walks through what is wrapped
	case *redsync.ErrTaken: // by a majority
		v.others = len(err.Nodes)
	case *redsync.ErrNodeTaken:
		v.others = 1
	case *redsync.RedisError:
		v.unreachable = 1
	case interface{ Unwrap() []error }:
		for _, each := range err.Unwrap() {
			of := countVotes(each)
			v.others += of.others
			v.unreachable += of.unreachable
		}
	default:
		if errors.Is(err, redsync.ErrLockAlreadyExpired) { // no such key
			v.others = 1
		}
	}
	return v
}

func (s *redlockStore) failed(what string, err error) error {
	if err == nil {
		err = redsync.ErrFailed
	}
	return fmt.Errorf("redlock: %s: %w", what, s.withAddresses(err))
}

// withAddresses adds the addresses of the nodes to redsync's error, which has numbers.
func (s *redlockStore) withAddresses(err error) error {
	switch each := err.(type) { //nolint:errorlint // it walks through what is wrapped
	case *redsync.RedisError:
		return failed(s.clients[each.Node], "no vote", each.Err)
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range each.Unwrap() {
			all = append(all, s.withAddresses(one))
		}
		return errors.Join(all...)
	}
	return err
}

// boundedPool bounds the time of each node, so that one that hangs does not use up the
// time of the others.
type boundedPool struct {
	redsyncredis.Pool
	timeout time.Duration
}

func (p boundedPool) Get(ctx context.Context) (redsyncredis.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	conn, err := p.Pool.Get(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	return boundedConn{conn, cancel}, nil
}

// boundedConn serves one request to a node. redsync closes it afterwards.
type boundedConn struct {
	redsyncredis.Conn
	cancel context.CancelFunc
}

func (c boundedConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}

// Inspect lists the locks that one owner has on a majority of the nodes.
func (r *Redlock) Inspect(ctx context.Context) ([]lock.Info, error) {
	type grant struct {
		name, holder string
		since        time.Time
	}
	var mu sync.Mutex
	votes := map[grant]int{}
	var infos []lock.Info
	err := r.store.onMajority("list the locks", func(client *redis.Client) error {
		held, err := (&store{client: client, prefix: r.store.prefix}).holders(ctx)
		mu.Lock()
		defer mu.Unlock()
		for _, info := range held {
			g := grant{info.Name, info.Holder, info.Since}
			if votes[g]++; votes[g] == r.store.quorum() {
				infos = append(infos, info)
			}
		}
		return err
	})
	lock.SortInfos(infos)
	return infos, err
}

// Revoke deletes the key of name from all nodes. It fails unless a majority answers.
func (r *Redlock) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	var deleted atomic.Int64
	err := r.store.onMajority("revoke", func(client *redis.Client) error {
		n, err := client.Del(ctx, r.store.prefix+name).Result()
		deleted.Add(n)
		return err
	})
	if err == nil && deleted.Load() == 0 {
		return lock.ErrNotHeld
	}
	return err
}

// onMajority calls ask for all nodes at once, and fails if it fails for a majority.
func (s *redlockStore) onMajority(what string, ask func(*redis.Client) error) error {
	failures := make([]error, len(s.clients))
	var all sync.WaitGroup
	for i, client := range s.clients {
		all.Go(func() {
			if err := ask(client); err != nil {
				failures[i] = failed(client, what, err)
			}
		})
	}
	all.Wait()
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	if len(failures) < s.quorum() {
		return nil
	}
	return errors.Join(failures...)
}
