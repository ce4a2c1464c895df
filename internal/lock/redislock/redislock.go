// Package redislock is a lock between processes in Redis, on one server or by Redlock
// on several independent ones.
//
// # One server: Locker
//
//	prefix name            the holder: a key that expires
//	prefix name/token      the last token granted for the name
//	prefix name/released   a channel that announces releases
//
// Each change is one script, which the server runs atomically:
//
//	take      if it is free: SET key owner NX PX ttl; SET token, the larger of token+1 and the clock
//	renew     if it is owner's: PEXPIRE key ttl
//	release   if it is owner's: DEL key; PUBLISH released
//
// Each request of a grant has a new owner name, so a request that arrives late or twice
// cannot change a later holder's key.
//
// Waiters subscribe to the channel and check the key once more. They sleep until a
// release is announced or the key expires, because a dead holder announces nothing. They
// do not poll, and they are not ordered: the first request after a release succeeds.
//
// A server can lose acknowledged writes, in a crash without an append-only file that is
// synced each time, or when an asynchronous replica is promoted. It then grants a held
// lock again, and only the token protects the store. Tokens must therefore not fall with
// the lost counter: each is at least the server's clock in microseconds. They rise unless
// that clock is set back by more than the server was down. Counters are never deleted;
// there is one for each name.
package redislock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// Capabilities are those of a Locker. The server knows only the number of waiters.
var Capabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 1,
}

// Config configures a Locker or a Redlock.
type Config struct {
	// Clients are made by Open, or have ContextTimeoutEnabled set, without which a call
	// does not end with its context. New takes one. NewRedlock takes an odd number of
	// independent servers, at least three.
	Clients []*redis.Client
	// Prefix of all keys. Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant outlives its process; at least a second.
	TTL time.Duration
	// Owner identifies the holder, for people: replica@host:pid.
	Owner string
}

func (cfg *Config) check() error {
	if cfg.Prefix == "" {
		return errors.New("redis lock: Prefix is missing")
	}
	for _, client := range cfg.Clients {
		if client == nil || !client.Options().ContextTimeoutEnabled {
			return errors.New("redis lock: a client is nil or without ContextTimeoutEnabled")
		}
	}
	return nil
}

// Locker is a lock.Locker on one Redis server.
type Locker struct {
	*lease.Locker
	store *store
}

const (
	// dialTimeout and callTimeout bound a call to a server that hangs. The context of a
	// call usually ends sooner.
	dialTimeout = time.Second
	callTimeout = 2 * time.Second
)

var errNoURL = errors.New("not a redis:// URL")

// Open makes a client for an address, which is host:port or a redis:// URL. It does not
// connect yet.
func Open(address string) (*redis.Client, error) {
	options := &redis.Options{Addr: address}
	if strings.Contains(address, "://") {
		var err error
		if options, err = redis.ParseURL(address); err != nil {
			return nil, errNoURL // the library's error contains the password
		}
	}
	options.Protocol, options.DisableIdentity = 2, true // saves a round trip per connection
	options.ContextTimeoutEnabled = true
	options.DialTimeout = dialTimeout
	options.ReadTimeout, options.WriteTimeout = callTimeout, callTimeout
	options.MaxRetries, options.DialerRetries = -1, 1 // the callers retry
	return redis.NewClient(options), nil
}

// New makes a Locker. It does not connect yet. Its Close does not close the client.
func New(cfg Config) (*Locker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if n := len(cfg.Clients); n != 1 {
		return nil, fmt.Errorf("redis lock: %d clients, want 1", n)
	}
	client := cfg.Clients[0]
	s := &store{client: client, prefix: cfg.Prefix, ttl: cfg.TTL, notices: newNotices(client)}
	locker, err := lease.New(lease.Config{
		Store: s, TTL: cfg.TTL, Owner: cfg.Owner, AwaitChange: s.awaitChange, CloseStore: s.notices.close, Final: isFinal,
	})
	if err != nil {
		return nil, fmt.Errorf("redis lock: %w", err)
	}
	return &Locker{locker, s}, nil
}

// awaitChange waits until name may be free: it was released, or its key may have expired.
func (s *store) awaitChange(ctx context.Context, name string) error {
	events, leave, err := s.notices.listen(ctx, s.channel(name))
	if err != nil {
		return failed(s.client, "subscribe", err)
	}
	defer leave()
	timer := time.NewTimer(s.ttl)
	defer timer.Stop()
	for {
		select {
		case <-events.released:
			return nil
		case <-events.subscribed: // a release before this moment was not announced to us
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		left, err := s.timeLeft(ctx, name)
		if err != nil || left <= 0 {
			return err
		}
		timer.Reset(left)
	}
}

// isFinal reports whether the server answers and will not change its answer.
func isFinal(err error) bool {
	return redis.IsAuthError(err) || redis.IsPermissionError(err)
}
