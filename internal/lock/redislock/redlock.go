package redislock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// RedlockCapabilities are what a Redlock promises. It has no token: no counter is
// common to the nodes.
var RedlockCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 1,
}

// RedlockConfig says where a Redlock's keys stand.
type RedlockConfig struct {
	// Clients of an odd number of independent servers, three at least: no
	// replicas of each other. See Config.Client.
	Clients []*redis.Client
	// Prefix, TTL and Owner are as in Config. A node that does not answer is
	// waited for a twentieth of the TTL.
	Prefix string
	TTL    time.Duration
	Owner  string
}

// Redlock is a lock.Locker on the majority of several Redis servers, by the
// algorithm of that name, as the library redsync has it: whoever gets a key on
// most of them within its time holds. It outlives the loss of a minority.
//
// It depends on time: on clocks of about the same speed, and on nodes that do not
// forget. One that was restarted empty gives the same name to another, and
// three such votes of five are a second holder (see the lesson of it). And there
// is no token to fence that.
//
// Those who wait try again after a random pause of 50 to 100 ms. The algorithm
// has no release that one server could tell of, and waiters that were woken at
// the same time would split the votes between them.
type Redlock struct {
	*lease.Locker
	store *redlockStore
}

// nodeShare of the TTL is what a node has to answer in, as redsync has it.
const nodeShare = 20

// NewRedlock makes a Redlock. It does not talk to the servers yet.
func NewRedlock(cfg RedlockConfig) (*Redlock, error) {
	if n := len(cfg.Clients); n < 3 || n%2 == 0 {
		return nil, fmt.Errorf("redlock: %d servers, must be an odd number, three at least", n)
	}
	if cfg.Prefix == "" {
		return nil, errors.New("redlock: no prefix")
	}
	s := &redlockStore{ttl: cfg.TTL, prefix: cfg.Prefix, clients: cfg.Clients}
	var pools []redsyncredis.Pool
	for _, client := range cfg.Clients {
		if err := checkClient(client); err != nil {
			return nil, err
		}
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

// mutex is redsync's, of one owner. It keeps no state that matters: the owner's
// name is all that the servers know it by.
func (s *redlockStore) mutex(name, owner string) *redsync.Mutex {
	return s.redsync.NewMutex(s.prefix+name, redsync.WithExpiry(s.ttl), redsync.WithTries(1),
		redsync.WithTimeoutFactor(1.0/nodeShare), redsync.WithValue(owner),
		redsync.WithGenValueFunc(func() (string, error) { return owner, nil }))
}

// Try asks all nodes at once, and gives back what it has got if that is no
// majority.
func (s *redlockStore) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	err := s.mutex(name, owner).TryLockContext(ctx)
	if err == nil {
		return 0, nil
	}
	if votes := s.count(err); votes.unreachable < s.quorum() && votes.others > 0 {
		return 0, lock.ErrHeld
	}
	return 0, s.failed("take", err)
}

// Renew extends the lease on a majority.
func (s *redlockStore) Renew(ctx context.Context, name, owner string) error {
	renewed, err := s.mutex(name, owner).ExtendContext(ctx)
	return s.outcome("renew", renewed, err)
}

// Release deletes what is owner's, and has given back what was on a majority.
func (s *redlockStore) Release(ctx context.Context, name, owner string) error {
	released, err := s.mutex(name, owner).UnlockContext(ctx)
	return s.outcome("release", released, err)
}

// outcome of a change: lock.ErrLost where a majority says that it is not owner's.
func (s *redlockStore) outcome(what string, done bool, err error) error {
	switch {
	case done:
		return nil
	case s.count(err).others >= s.quorum():
		return lock.ErrLost
	}
	return s.failed(what, err)
}

func (s *redlockStore) quorum() int { return len(s.clients)/2 + 1 }

// votes are the nodes that did not agree, and why.
type votes struct{ others, unreachable int }

// count reads what redsync says of the nodes, in an error that holds one for each.
func (s *redlockStore) count(err error) votes {
	var v votes
	switch err := err.(type) { //nolint:errorlint // it walks through what is wrapped
	case nil:
	case *redsync.ErrTaken: // by a majority
		v.others = len(err.Nodes)
	case *redsync.ErrNodeTaken:
		v.others = 1
	case *redsync.RedisError:
		v.unreachable = 1
	case interface{ Unwrap() []error }:
		for _, each := range err.Unwrap() {
			of := s.count(each)
			v.others += of.others
			v.unreachable += of.unreachable
		}
	default:
		if errors.Is(err, redsync.ErrLockAlreadyExpired) { // there is no such key
			v.others = 1
		}
	}
	return v
}

// failed says which servers failed how.
func (s *redlockStore) failed(what string, err error) error {
	if err == nil {
		err = redsync.ErrFailed
	}
	return fmt.Errorf("redlock: %s: %w", what, s.named(err))
}

// named gives the nodes their addresses: redsync numbers them.
func (s *redlockStore) named(err error) error {
	switch each := err.(type) { //nolint:errorlint // it walks through what is wrapped
	case *redsync.RedisError:
		return failed(s.clients[each.Node], "no vote", each.Err)
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range each.Unwrap() {
			all = append(all, s.named(one))
		}
		return errors.Join(all...)
	}
	return err
}

// boundedPool gives each node its own time: one that hangs must not use up that of
// all.
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

// boundedConn is what one request to a node uses, and closes after it.
type boundedConn struct {
	redsyncredis.Conn
	cancel context.CancelFunc
}

func (c boundedConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}

// Inspect lists the locks that one owner has on a majority. A name whose votes
// are split is held by nobody.
func (r *Redlock) Inspect(ctx context.Context) ([]lock.Info, error) {
	return r.store.inspect(ctx)
}

// Revoke deletes a name from all nodes, whoever has it there. A majority must
// have answered.
func (r *Redlock) Revoke(ctx context.Context, name string) error {
	if err := lock.CheckName(name); err != nil {
		return err
	}
	return r.store.revoke(ctx, name)
}
