// Package backend opens the lock of a strategy from the addresses of its server. It is
// the only package that imports all locks. It also reports whether the lock's server
// accepts writes, and which fencing tokens it has reached.
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

// Config says which lock to open.
type Config struct {
	Strategy strategy.Strategy
	Servers  Servers
	// DSN and Database are those of the orders. Locks in MySQL are in the same
	// database. Keys on other servers contain its name.
	DSN, Database string
	// Connections is the size of a MySQL lock's own pool. 0 is the lock's default.
	Connections int
	// Replica names the holder, for people.
	Replica string
	// Process and ForwardAddr tell other replicas where to forward orders, as in
	// lock.Holder. Both are empty if this replica accepts none.
	Process, ForwardAddr string
	TTL                  time.Duration
	// Traces records spans of etcd requests. nil records none.
	Traces trace.TracerProvider
	Logger *slog.Logger
}

// prefix of all keys on a lock server.
func (c *Config) prefix() string { return c.Servers.Prefix + c.Database + "/lock/" }

// unusedKey is a key that never exists. Ping asks for it.
func (c *Config) unusedKey() string { return c.prefix() + "/never-made" }

// owner identifies the holder, for people.
func (c *Config) owner() string {
	return fmt.Sprintf("%s@%s:%d", c.Replica, hostname(), os.Getpid())
}

// hostname is only shown to people, so it may be empty.
func hostname() string {
	host, _ := os.Hostname()
	return host
}

// Backend is a strategy's lock and the connection to its server.
type Backend struct {
	// Locker is nil if the strategy takes no lock. Close it before the Backend.
	Locker lock.Locker
	// Source names the origin of the tokens. It is empty without tokens. Tokens of
	// two sources must never be compared.
	Source string
	// Newest is a token that the server had reached when it was opened. Later tokens
	// are larger. It is 0 if the server cannot tell without granting a lock.
	Newest uint64
	// Etcd is the client, if the strategy uses etcd.
	Etcd *clientv3.Client

	reached func(context.Context) (uint64, error)
	ping    func(context.Context) error
	close   func() error
}

// Check returns an error if the strategy needs flags that are missing or malformed.
func Check(s strategy.Strategy, at *Servers) error {
	server, ok := servers[s.Server]
	if !ok {
		return nil
	}
	if err := server.check(at); err != nil {
		return fmt.Errorf("%w (strategy %s needs %s)", err, s.Name, server.name)
	}
	return nil
}

// Address describes the strategy's lock server, for people: "redis at 10.0.0.1:6379".
// It is empty if the strategy needs no server but MySQL.
func Address(s strategy.Strategy, at *Servers) string {
	server, ok := servers[s.Server]
	if !ok {
		return ""
	}
	return server.name + " at " + server.address(at)
}

// Open connects to the strategy's server and returns when it has answered. After an
// error, nothing is left open.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if err := Check(cfg.Strategy, &cfg.Servers); err != nil {
		return nil, err
	}
	open := kinds[cfg.Strategy.Lock].open
	if cfg.Strategy.Write == strategy.EtcdCompareAndSwap {
		open = openEtcdStock
	}
	if open == nil {
		return nil, fmt.Errorf("strategy %s: unknown lock %q", cfg.Strategy.Name, cfg.Strategy.Lock)
	}
	return open(ctx, &cfg)
}

// Capabilities returns what the strategy's lock guarantees. The second result is false
// if the strategy takes no lock.
func Capabilities(s strategy.Strategy) (lock.Capabilities, bool) {
	k, ok := kinds[s.Lock]
	return k.capabilities, ok && s.Lock != strategy.NoLock
}

// ErrNoWrites is returned by Ping if the server answers but would not write a lock, for
// example because it is full or a replica.
var ErrNoWrites = errors.New("the server does not accept writes")

func noWrites(err error) error { return fmt.Errorf("%w: %w", ErrNoWrites, err) }

// Ping asks the server for a write that changes nothing, and the lock whether it is
// healthy. It returns ErrNoWrites if the server refuses.
func (b *Backend) Ping(ctx context.Context) error {
	if b.ping != nil {
		if err := b.ping(ctx); err != nil {
			return err
		}
	}
	if l, ok := b.Locker.(interface{ Healthy() error }); ok {
		return l.Healthy()
	}
	return nil
}

// Reached returns what Newest would be if the server were opened now. It becomes smaller
// only if the server's data were restored from a backup.
func (b *Backend) Reached(ctx context.Context) (uint64, error) {
	if b.reached == nil {
		return 0, nil
	}
	return b.reached(ctx)
}

// Inspector lists the holders of locks. It is nil if the lock's server cannot.
func (b *Backend) Inspector() lock.Inspector {
	inspector, _ := b.Locker.(lock.Inspector)
	return inspector
}

// Close closes the connection to the server.
func (b *Backend) Close() error {
	if b.close == nil {
		return nil
	}
	return b.close()
}
