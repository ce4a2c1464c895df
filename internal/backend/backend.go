// Package backend makes the lock that a strategy takes, from the addresses of its
// server, and knows of that server what a replica must: whether it answers, and
// whose fencing tokens it hands out. It is the one place that knows every
// back-end. What a lock is good for is the registry's to say.
package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/lock"
	"flashsale/internal/strategy"
)

// Config says which lock to make, and for whom.
type Config struct {
	Strategy strategy.Strategy
	Servers  Servers
	// DSN and Database are those of the orders: locks in MySQL are taken there,
	// and keys on every other server carry the database's name.
	DSN, Database string
	// Connections are a MySQL lock's own; 0 is the back-end's default.
	Connections int
	// Replica names the holder, for people.
	Replica string
	// Process and ForwardAddr are where other replicas send the orders of SKUs
	// that this one sells, as in lock.Holder. Both are empty where they cannot.
	Process, ForwardAddr string
	TTL                  time.Duration
	// Traces makes spans of what traced requests ask etcd; nil makes none.
	Traces trace.TracerProvider
	Logger *slog.Logger
}

// prefix of all keys of a lock server.
func (c *Config) prefix() string { return c.Servers.Prefix + c.Database + "/lock/" }

// neverMade is a key that no server has: it is asked for in Ping.
func (c *Config) neverMade() string { return c.prefix() + "/never-made" }

// owner is who holds, for people.
func (c *Config) owner() string {
	host, _ := os.Hostname() // only shown to people
	return fmt.Sprintf("%s@%s:%d", c.Replica, host, os.Getpid())
}

// Backend is a strategy's lock, and the connection to its server.
type Backend struct {
	// Locker is nil where the strategy takes none. Close it before the Backend.
	Locker lock.Locker
	// Source names what hands the tokens out; "" without tokens. Tokens of two
	// sources must never be compared.
	Source string
	// Newest is a token that was reached: later ones are larger. It is 0 where
	// the server does not tell without making one.
	Newest uint64
	// Etcd is the client, where the strategy needs etcd.
	Etcd *clientv3.Client

	reached func(context.Context) (uint64, error)
	ping    func(context.Context) error
	close   func() error
}

// Check finds what no waiting mends: flags that the strategy's server needs.
func Check(s strategy.Strategy, servers *Servers) error {
	server, ok := servers.of(s)
	if !ok || server.check == nil {
		return nil
	}
	if err := server.check(servers); err != nil {
		return fmt.Errorf("%w (strategy %s needs %s)", err, s.Name, server.name)
	}
	return nil
}

// Address names the strategy's server, for people: "redis at 10.0.0.1:6379". It
// is "" where the strategy has none but MySQL.
func Address(s strategy.Strategy, servers *Servers) string {
	server, ok := servers.of(s)
	if !ok || server.address == nil {
		return ""
	}
	return server.name + " at " + server.address(servers)
}

// Open connects to the strategy's server, and returns once it has answered. An
// error leaves nothing open.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if err := Check(cfg.Strategy, &cfg.Servers); err != nil {
		return nil, err
	}
	open := kinds[cfg.Strategy.Lock].open
	if cfg.Strategy.Write == strategy.EtcdCompareAndSwap {
		open = openEtcdStock
	}
	if open == nil {
		return nil, fmt.Errorf("strategy %s: lock %q is not built in", cfg.Strategy.Name, cfg.Strategy.Lock)
	}
	g, err := open(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	if g.close == nil {
		g.close = func() error { return nil }
	}
	return g, nil
}

// Capabilities are what the lock of a strategy promises. The second result is
// false where it takes none.
func Capabilities(s strategy.Strategy) (lock.Capabilities, bool) {
	b, ok := kinds[s.Lock]
	return b.capabilities, ok && s.Lock != strategy.NoLock
}

// ErrNoWrites says that the server answers, and would not write a lock: it is full,
// or a replica of another.
var ErrNoWrites = errors.New("the server takes no writes")

// noWrites is the refusal that a server answers.
func noWrites(err error) error { return fmt.Errorf("%w: %w", ErrNoWrites, err) }

// Ping asks the server whether it would write a lock, and the lock whether it could
// be granted. It writes nothing: each server is asked for a write that it checks and
// that changes nothing. ErrNoWrites is the server's own word.
func (g *Backend) Ping(ctx context.Context) error {
	if g.ping != nil {
		if err := g.ping(ctx); err != nil {
			return err
		}
	}
	if l, ok := g.Locker.(interface{ Healthy() error }); ok {
		return l.Healthy()
	}
	return nil
}

// Reached asks which token the server has reached by now: Newest, later. It is 0
// where the server does not tell. A server's word never falls, unless its data
// were put back.
func (g *Backend) Reached(ctx context.Context) (uint64, error) {
	if g.reached == nil {
		return 0, nil
	}
	return g.reached(ctx)
}

// Inspector tells who holds what, or is nil where the lock's server cannot.
func (g *Backend) Inspector() lock.Inspector {
	inspector, _ := g.Locker.(lock.Inspector)
	return inspector
}

// Close closes the connection to the server.
func (g *Backend) Close() error { return g.close() }

// closing closes what an Open that failed had opened.
func closing(err error, closers ...func() error) error {
	for _, c := range closers {
		err = errors.Join(err, c())
	}
	return err
}
