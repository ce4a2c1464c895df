package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/doctor"
	"flashsale/internal/lock/memcachedlock"
)

// minMemcached has cas, which the lock uses.
var minMemcached = doctor.Version{Major: 1, Minor: 5}

// inMemcached opens the lock of one memcached server. It has no Source, because it has
// no tokens.
func inMemcached(ctx context.Context, cfg *Config) (*Backend, error) {
	client := memcache.New(cfg.Servers.MemcachedAddr)
	ping := func(ctx context.Context) error {
		return within(ctx, func() error { return tryMemcachedWrite(client, cfg.unusedKey()) })
	}
	if err := ping(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	locker, err := memcachedlock.New(memcachedlock.Config{
		Address: cfg.Servers.MemcachedAddr, Prefix: cfg.prefix(), TTL: cfg.TTL, Owner: cfg.owner(),
	})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &Backend{Locker: locker, ping: ping, close: client.Close}, nil
}

// tryMemcachedWrite replaces an item that never exists. A full server that may not evict
// refuses that.
func tryMemcachedWrite(client *memcache.Client, key string) error {
	err := client.Replace(&memcache.Item{Key: key, Value: []byte{0}})
	switch {
	case errors.Is(err, memcache.ErrNotStored):
		return nil
	case errors.Is(err, memcache.ErrServerError), err != nil && strings.Contains(err.Error(), "SERVER_ERROR"):
		return noWrites(err)
	}
	return err
}

// within calls a client library that takes no context, and returns at the end of ctx. The
// call then ends by the library's own timeout.
func within(ctx context.Context, call func() error) error {
	answer := make(chan error, 1)
	go func() { answer <- call() }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func examineMemcached(ctx context.Context, e *examination) error {
	lines, err := ask(ctx, e.servers.MemcachedAddr, "stats\r\n", "END")
	if err != nil {
		return err
	}
	stats := map[string]string{}
	for _, line := range lines {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "STAT" {
			stats[words[1]] = words[2]
		}
	}
	if len(stats) == 0 {
		return fmt.Errorf("the server is not memcached: %.40q", strings.Join(lines, " "))
	}
	e.CheckVersion("version", stats["version"], minMemcached)
	if n := stats["evictions"]; n != "0" {
		e.Warn("evictions", "give it more memory (-m), or use a server for locks alone: an evicted lock gets a second holder", "%s since its start", n)
	} else {
		e.Fine("evictions", "none since its start")
	}
	return nil
}
