package guard

import (
	"context"
	"errors"

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
func inMemcached(ctx context.Context, cfg *Config) (*Guard, error) {
	client := memcache.New(cfg.Servers.MemcachedAddr)
	ping := func(ctx context.Context) error {
		answer := make(chan error, 1)
		go func() { answer <- client.Ping() }() // ends by the client's own time-out
		select {
		case err := <-answer:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
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
	return &Guard{Locker: locker, ping: ping, close: client.Close}, nil
}
