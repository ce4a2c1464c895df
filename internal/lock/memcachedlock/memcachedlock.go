// Package memcachedlock is a lock between processes in memcached. It has no token, because a
// cache may lose a counter.
//
// # Protocol
//
// A name is an item that expires and contains its holder:
//
//	take      add     stores the item only if there is none
//	renew     gets    if it is ours: cas with a new expiry
//	release   gets    if it is ours: cas to an item that has expired
//
// The text protocol, which the client uses, has no delete that compares. A get, a comparison
// and a delete could delete the item of the next holder.
//
// Each request of a grant has a new owner name. The client takes no contexts, so a request
// to a server that hangs ends after a sixth of the TTL. The server announces no releases:
// waiters poll after a random 50 to 100 ms. They are not ordered; the first request after a
// release succeeds, and that may be the last holder's.
//
// # Limits
//
// A cache loses items: by eviction when it is full, by flush_all, by a restart. Each loss
// lets a second holder in, and the first one notices at its next renewal, up to a third of
// the TTL later. The server's clock has whole seconds. An item therefore gets one second
// more than the TTL, and a dead holder's lock may be free up to two seconds late. A server
// process that was paused uses the time before the pause until its clock ticks again. A
// grant of that moment may end early.
package memcachedlock

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// Capabilities are those of a Locker.
var Capabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 2,
}

const (
	// maxTTL is less than 30 days, from which the server reads an expiry as a date.
	maxTTL = 29 * 24 * time.Hour
	// timeoutShare of the TTL is the timeout of a request. A renewal is two requests.
	timeoutShare = 6
	// maxPrefix leaves space for a name or its hash in a key of at most maxKey bytes.
	maxPrefix = 100
	maxKey    = 250
	// idleConns is the number of idle connections that stay open. A name has at most one
	// request at a time.
	idleConns = 16
	// expired is the expiry of an item that has expired when it is stored.
	expired = -1
)

// Config configures a Locker.
type Config struct {
	// Address of the server, as host:port.
	Address string
	// Prefix of all keys, without spaces. Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant outlives its process; at least a second. The server may add
	// up to two seconds.
	TTL time.Duration
	// Owner identifies the holder, for people: replica@host:pid.
	Owner string
}

// Locker is a lock.Locker in memcached.
type Locker struct {
	*lease.Locker
	store *store
}

// New makes a Locker. It resolves the server's name, but does not connect yet.
func New(cfg Config) (*Locker, error) {
	switch {
	case cfg.Address == "":
		return nil, errors.New("memcached lock: Address is missing")
	case cfg.Prefix == "" || len(cfg.Prefix) > maxPrefix || url.PathEscape(cfg.Prefix) != strings.ReplaceAll(cfg.Prefix, "/", "%2F"):
		return nil, fmt.Errorf("memcached lock: prefix %q must have 1 to %d bytes that need no escaping", cfg.Prefix, maxPrefix)
	case cfg.TTL > maxTTL:
		return nil, fmt.Errorf("memcached lock: TTL is %s; it must be at most %s", cfg.TTL, maxTTL)
	}
	var server memcache.ServerList
	if err := server.SetServers(cfg.Address); err != nil {
		return nil, fmt.Errorf("memcached lock: %w", err)
	}
	s := &store{address: cfg.Address, prefix: cfg.Prefix, ttl: cfg.TTL, client: memcache.NewFromSelector(&server)}
	s.client.Timeout, s.client.MaxIdleConns = cfg.TTL/timeoutShare, idleConns
	locker, err := lease.New(lease.Config{Store: s, TTL: cfg.TTL, Owner: cfg.Owner, CloseStore: s.client.Close})
	if err != nil {
		return nil, fmt.Errorf("memcached lock: %w", err)
	}
	return &Locker{Locker: locker, store: s}, nil
}

// store is the lease.Store in memcached.
type store struct {
	address, prefix string
	ttl             time.Duration
	client          *memcache.Client
}

// key returns the key of a name, with the name's hash if it is too long. Escaped names
// contain no slash, so the two kinds of keys differ.
func (s *store) key(name string) string {
	if key := s.prefix + url.PathEscape(name); len(key) <= maxKey {
		return key
	}
	hash := sha256.Sum256([]byte(name))
	return s.prefix + "/" + hex.EncodeToString(hash[:])
}

// value contains the name too, because a key may have only its hash.
func value(name, owner string) []byte { return []byte(name + "\x00" + owner) }

func parse(value []byte) (name, owner string) {
	name, owner, _ = strings.Cut(string(value), "\x00")
	return name, owner
}

// seconds returns an expiry of at least the TTL. The server's clock may be about to tick.
func (s *store) seconds() int32 {
	return int32((s.ttl+time.Second-1)/time.Second) + 1
}

// Try adds the item.
func (s *store) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	err := s.client.Add(&memcache.Item{Key: s.key(name), Value: value(name, owner), Expiration: s.seconds()})
	if !errors.Is(err, memcache.ErrNotStored) {
		return 0, s.failed("take", err)
	}
	if ctx.Err() == nil {
		if item, err := s.client.Get(s.key(name)); err == nil {
			_, holder := parse(item.Value)
			return 0, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
		}
	}
	return 0, lock.ErrHeld
}

// Renew stores owner's item with another TTL.
func (s *store) Renew(ctx context.Context, name, owner string) error {
	return s.swap(ctx, "renew", name, owner, s.seconds())
}

// Release expires owner's item.
func (s *store) Release(ctx context.Context, name, owner string) error {
	return s.swap(ctx, "release", name, owner, expired)
}

// swap changes the expiry of owner's item if it is still there. Only its owner changes it,
// so a conflict is a late renewal.
func (s *store) swap(ctx context.Context, what, name, owner string, expiry int32) error {
	for {
		if err := ctx.Err(); err != nil {
			return s.failed(what, err)
		}
		item, err := s.client.Get(s.key(name)) // the client sends gets
		if err == nil {
			if n, o := parse(item.Value); n != name || o != owner {
				return lock.ErrLost
			}
			if err := ctx.Err(); err != nil {
				return s.failed(what, err)
			}
			item.Expiration = expiry
			err = s.client.CompareAndSwap(item)
		}
		switch {
		case errors.Is(err, memcache.ErrCASConflict):
		case errors.Is(err, memcache.ErrCacheMiss), errors.Is(err, memcache.ErrNotStored):
			return lock.ErrLost
		default:
			return s.failed(what, err)
		}
	}
}

// failed adds the server's address, which not every error of the client contains.
func (s *store) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("memcached %s: %s: %w", s.address, what, err)
}
