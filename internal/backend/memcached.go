package backend

import (
	"context"
	"errors"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/lock/memcachedlock"
)

func (s *Servers) checkMemcached() error {
	if s.MemcachedAddr == "" {
		return errors.New("--memcached-addr is missing")
	}
	return checkAddresses("--memcached-addr", s.MemcachedAddr)
}

// inMemcached opens the lock of one memcached server. It has nothing that could
// name its data: a server that restarts has none.
func inMemcached(ctx context.Context, cfg *Config) (*Backend, error) {
	client := memcache.New(cfg.Servers.MemcachedAddr)
	ping := func(ctx context.Context) error {
		return within(ctx, func() error { return askMemcached(client, cfg.neverMade()) })
	}
	if err := ping(ctx); err != nil {
		return nil, closing(err, client.Close)
	}
	locker, err := memcachedlock.New(memcachedlock.Config{
		Address: cfg.Servers.MemcachedAddr, Prefix: cfg.prefix(), TTL: cfg.TTL, Owner: cfg.owner(),
	})
	if err != nil {
		return nil, closing(err, client.Close)
	}
	return &Backend{Locker: locker, ping: ping, close: client.Close}, nil
}

// askMemcached replaces an item that never is. A server that has no room left, and
// may not evict, refuses it before it looks.
func askMemcached(client *memcache.Client, key string) error {
	err := client.Replace(&memcache.Item{Key: key, Value: []byte{0}})
	switch {
	case errors.Is(err, memcache.ErrNotStored):
		return nil
	case errors.Is(err, memcache.ErrServerError), err != nil && strings.Contains(err.Error(), "SERVER_ERROR"):
		return noWrites(err)
	}
	return err
}

// within waits for a client library that knows no contexts until ctx ends. The call
// ends by the library's own time-out.
func within(ctx context.Context, ask func() error) error {
	answer := make(chan error, 1)
	go func() { answer <- ask() }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
