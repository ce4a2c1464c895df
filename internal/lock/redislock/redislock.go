// Package redislock is a lock between processes in Redis: on one server, or by
// Redlock on several that know nothing of each other. It knows keys, scripts and
// channels; what is locked, and what a token is shown to, is left to others.
//
// # One server: Locker
//
//	prefix name            who holds the name: a key that expires
//	prefix name/token      the last token given for the name
//	prefix name/released   a channel: somebody has given the name back
//
// Each change is one script, which the server runs as a whole:
//
//	take      if nobody has it: SET key owner NX PX ttl; SET token, the larger of token+1 and the clock
//	renew     if it is owner's: PEXPIRE key ttl
//	release   if it is owner's: DEL key; PUBLISH released
//
// An owner's name is made for one request and never used again. So a request
// that arrives late or twice cannot touch a later holder's key.
//
// Those who wait subscribe to the channel, then look once more, and sleep until
// they are told, or until the key's own time is over: a holder that has died
// tells nobody. There is no polling. Nor is there an order: whoever asks first
// after a release has it.
//
// It is as good as its server's memory. A server that loses what it had
// acknowledged (it crashes without an append-only file that is synced each time,
// or its asynchronous replica is promoted) has forgotten who holds what, and lets
// the next one in. The token is what is left then, and a counter would begin
// again, or go back: it is never behind the server's clock, in microseconds, and
// thus above all that were given before, unless that clock was set back further
// than the crash has taken. The counters stay for ever, one for each name.
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

// Capabilities are what a Locker promises. Who waits is known to the server only
// as a number of subscribers.
var Capabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 1,
}

// Config says where a Locker's keys stand.
type Config struct {
	// Client is one that Open has made, or that has ContextTimeoutEnabled set as
	// well: else a call would not end with its context.
	Client *redis.Client
	// Prefix of all keys. Lockers with the same prefix exclude each other.
	Prefix string
	// TTL is how long a grant survives its process; a second at least.
	TTL time.Duration
	// Owner tells people who holds: replica@host:pid.
	Owner string
}

// Locker is a lock.Locker on one Redis server.
type Locker struct {
	*lease.Locker
	store   *store
	notices *notices
}

const (
	// dialTimeout and callTimeout bound what a server that hangs can cost beyond
	// a call's own context, which is mostly shorter.
	dialTimeout = time.Second
	callTimeout = 2 * time.Second
)

var errNoURL = errors.New("no redis:// URL of a server")

// Open makes a client for a server's address, a host and port or a redis:// URL.
// It does not connect yet.
func Open(address string) (*redis.Client, error) {
	options := &redis.Options{Addr: address}
	if strings.Contains(address, "://") {
		var err error
		if options, err = redis.ParseURL(address); err != nil {
			return nil, errNoURL // the library's error quotes all of it, and so the password
		}
	}
	options.Protocol, options.DisableIdentity = 2, true // one round trip less to connect
	options.ContextTimeoutEnabled = true
	options.DialTimeout = dialTimeout
	options.ReadTimeout, options.WriteTimeout = callTimeout, callTimeout
	// Whoever calls tries again, and knows how long that makes sense.
	options.MaxRetries, options.DialerRetries = -1, 1
	return redis.NewClient(options), nil
}

// New makes a Locker. It does not talk to the server yet.
func New(cfg Config) (*Locker, error) {
	if err := checkClient(cfg.Client); err != nil {
		return nil, err
	}
	if cfg.Prefix == "" {
		return nil, errors.New("redis lock: no prefix")
	}
	l := &Locker{
		store:   &store{client: cfg.Client, prefix: cfg.Prefix, ttl: cfg.TTL},
		notices: newNotices(cfg.Client),
	}
	var err error
	l.Locker, err = lease.New(lease.Config{
		Store: l.store, TTL: cfg.TTL, Owner: cfg.Owner, Changed: l.changed, Final: isFinal,
	})
	if err != nil {
		return nil, fmt.Errorf("redis lock: %w", err)
	}
	return l, nil
}

// Close is lease.Locker's, and ends the subscriptions. The client stays open.
func (l *Locker) Close(ctx context.Context) error {
	return errors.Join(l.Locker.Close(ctx), l.notices.close())
}

// changed waits until name may be free: somebody has said so, or its time is over.
func (l *Locker) changed(ctx context.Context, name string) error {
	told, leave, err := l.notices.listen(ctx, l.store.channel(name))
	if err != nil {
		return l.store.failed("subscribe", err)
	}
	defer leave()
	timer := time.NewTimer(l.store.ttl)
	defer timer.Stop()
	for {
		select {
		case <-told.released:
			return nil
		case <-told.subscribed: // from now on nothing is missed; until now it may have been
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		left, err := l.store.left(ctx, name)
		if err != nil || left <= 0 {
			return err
		}
		timer.Reset(left)
	}
}

func checkClient(client *redis.Client) error {
	switch {
	case client == nil:
		return errors.New("redis lock: no client")
	case !client.Options().ContextTimeoutEnabled:
		return errors.New("redis lock: the client's calls do not end with their contexts (ContextTimeoutEnabled)")
	}
	return nil
}

// isFinal: the server answers, and will go on answering so.
func isFinal(err error) bool {
	return redis.IsAuthError(err) || redis.IsPermissionError(err)
}
