// Package memcachedlock is a lock between processes in memcached. It knows items
// and their compare-and-swap; what is locked is left to others. There is no
// token to show: nothing in a cache is sure to outlive a later holder.
//
// # Protocol
//
// A name is an item that expires, with its holder in it:
//
//	take      add     stored only if there is none
//	renew     gets    ours? then cas, with another time
//	release   gets    ours? then cas, to an item whose time is over
//
// The text protocol has no delete that compares (the newer meta commands have,
// which the client does not speak): a get, a look and a delete would now and then
// delete the item of the next holder. An item that is over is as good as none.
//
// An owner's name is made for one request and never used again. A server in
// trouble is left to itself after a sixth of the TTL, whatever the context says:
// the client knows none. Who waits asks again after a random 50 to 100 ms, since
// the server tells nobody of anything. There is no order: whoever asks first
// after a release has it, and that may well be the one who has just released.
//
// # What it cannot give
//
// It is a cache, and forgets as one: by eviction when it is full, by flush_all, by
// a restart. Each lets a second holder in; the first hears of it with its next
// renewal, up to a third of the TTL later. Its clock has whole seconds, so that
// an item is given one second more than the TTL, and a lock whose holder has
// died is free up to two seconds late. A server whose process was stopped counts
// from the time before, until its clock ticks again: what it grants in that
// moment may end early.
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

// Capabilities are what a Locker promises.
var Capabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 2,
}

const (
	// maxTTL is where the server takes a number of seconds for a date.
	maxTTL = 29 * 24 * time.Hour
	// timeoutShare of the TTL is what a request may take. A renewal is two.
	timeoutShare = 6
	// maxPrefix leaves room for a name, or the hash of one, in a key of 250 bytes.
	maxPrefix = 100
	maxKey    = 250
	// idleConns are kept open. More requests than that at a time are rare: a
	// name has one.
	idleConns = 16
	// over is the time of an item that is over when it is stored.
	over = -1
)

// Config says where a Locker's items stand.
type Config struct {
	// Address of the one server, a host and port.
	Address string
	// Prefix of all keys, without spaces. Lockers with the same prefix exclude
	// each other.
	Prefix string
	// TTL is how long a grant survives its process; a second at least. The
	// server's own time for it is up to two seconds longer.
	TTL time.Duration
	// Owner tells people who holds: replica@host:pid.
	Owner string
}

// Locker is a lock.Locker in memcached.
type Locker struct {
	*lease.Locker
	store *store
}

// New makes a Locker. It does not talk to the server yet, but looks up its name.
func New(cfg Config) (*Locker, error) {
	switch {
	case cfg.Address == "":
		return nil, errors.New("memcached lock: no address")
	case cfg.Prefix == "" || len(cfg.Prefix) > maxPrefix || url.PathEscape(cfg.Prefix) != strings.ReplaceAll(cfg.Prefix, "/", "%2F"):
		return nil, fmt.Errorf("memcached lock: prefix %q: 1 to %d bytes that need no escape", cfg.Prefix, maxPrefix)
	case cfg.TTL > maxTTL:
		return nil, fmt.Errorf("memcached lock: TTL is %s, at most %s can be had", cfg.TTL, maxTTL)
	}
	var server memcache.ServerList
	if err := server.SetServers(cfg.Address); err != nil {
		return nil, fmt.Errorf("memcached lock: %w", err)
	}
	s := &store{address: cfg.Address, prefix: cfg.Prefix, ttl: cfg.TTL, client: memcache.NewFromSelector(&server)}
	s.client.Timeout, s.client.MaxIdleConns = cfg.TTL/timeoutShare, idleConns
	locker, err := lease.New(lease.Config{Store: s, TTL: cfg.TTL, Owner: cfg.Owner})
	if err != nil {
		return nil, fmt.Errorf("memcached lock: %w", err)
	}
	return &Locker{Locker: locker, store: s}, nil
}

// Close is lease.Locker's, and closes the connections.
func (l *Locker) Close(ctx context.Context) error {
	return errors.Join(l.Locker.Close(ctx), l.store.client.Close())
}

// store is the lease.Store in memcached.
type store struct {
	address, prefix string
	ttl             time.Duration
	client          *memcache.Client
}

// key of a name: the name itself, or its hash if it is too long. A slash is in no
// name, and escaped in none.
func (s *store) key(name string) string {
	if key := s.prefix + url.PathEscape(name); len(key) <= maxKey {
		return key
	}
	hash := sha256.Sum256([]byte(name))
	return s.prefix + "/" + hex.EncodeToString(hash[:])
}

// value says whose the item is, and of which name: a hash does not.
func value(name, owner string) []byte { return []byte(name + "\x00" + owner) }

func parse(value []byte) (name, owner string) {
	name, owner, _ = strings.Cut(string(value), "\x00")
	return name, owner
}

// seconds that an item is stored for, so that it lasts for the TTL at least: the
// server's clock may be about to tick.
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
	// It is held. By whom is worth a request; if that fails, it is held all the same.
	if ctx.Err() == nil {
		if item, err := s.client.Get(s.key(name)); err == nil {
			_, holder := parse(item.Value)
			return 0, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
		}
	}
	return 0, lock.ErrHeld
}

// Renew stores owner's item for another TTL.
func (s *store) Renew(ctx context.Context, name, owner string) error {
	return s.swap(ctx, "renew", name, owner, s.seconds())
}

// Release ends owner's item.
func (s *store) Release(ctx context.Context, name, owner string) error {
	return s.swap(ctx, "release", name, owner, over)
}

// swap stores owner's item for so many seconds from now, if it is still there.
// Nobody changes it but its owner: a conflict is a renewal that comes late.
func (s *store) swap(ctx context.Context, what, name, owner string, seconds int32) error {
	for {
		if err := ctx.Err(); err != nil {
			return s.failed(what, err)
		}
		item, err := s.client.Get(s.key(name)) // the client's Get asks with gets
		if err != nil {
			return s.gone(what, err)
		}
		if n, o := parse(item.Value); n != name || o != owner {
			return lock.ErrLost
		}
		if err := ctx.Err(); err != nil {
			return s.failed(what, err)
		}
		item.Expiration = seconds
		if err = s.client.CompareAndSwap(item); !errors.Is(err, memcache.ErrCASConflict) {
			return s.gone(what, err)
		}
	}
}

// gone is lock.ErrLost where there is no item.
func (s *store) gone(what string, err error) error {
	if errors.Is(err, memcache.ErrCacheMiss) || errors.Is(err, memcache.ErrNotStored) {
		return lock.ErrLost
	}
	return s.failed(what, err)
}

// failed names the server: not every error of the client does.
func (s *store) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("memcached %s: %s: %w", s.address, what, err)
}
