package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"flashsale/internal/doctor"
	"flashsale/internal/lock"
	"flashsale/internal/lock/redislock"
	"flashsale/internal/strategy"
)

// redisSourceKey has a random name for the data of a Redis. The first replica creates
// it. A server that lost its data gets another name, because its new tokens must not be
// compared with the old ones.
const redisSourceKey = "source"

// minRedis is the first version whose scripts may write values that they computed.
var minRedis = doctor.Version{Major: 6, Minor: 0}

func (s *Servers) checkRedis() error {
	switch n := len(s.RedisAddrs); {
	case n == 0:
		return errors.New("--redis-addrs is missing")
	case n > 1:
		return fmt.Errorf("--redis-addrs has %d servers, but this strategy uses one", n)
	}
	return s.checkRedisURLs()
}

func (s *Servers) checkRedlock() error {
	if n := len(s.RedisAddrs); n < 3 || n%2 == 0 {
		return fmt.Errorf("--redis-addrs has %d servers, but an odd number of at least three independent ones is needed", n)
	}
	return s.checkRedisURLs()
}

func (s *Servers) checkRedisURLs() error {
	for i, addr := range s.RedisAddrs {
		client, err := redislock.Open(addr) // it does not connect
		if err != nil {
			return fmt.Errorf("--redis-addrs: value %d is %w", i+1, err)
		}
		_ = client.Close()
	}
	return nil
}

type redisClients []*redis.Client

// openRedis connects to all servers. Most of them must answer.
func (s *Servers) openRedis(ctx context.Context) (clients redisClients, err error) {
	quietRedis()
	for _, addr := range s.RedisAddrs {
		client, err := redislock.Open(addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--redis-addrs: %w", err), clients.close())
		}
		clients = append(clients, client)
	}
	if err := clients.most(func(client *redis.Client) error { return client.Ping(ctx).Err() }); err != nil {
		return nil, errors.Join(err, clients.close())
	}
	return clients, nil
}

// most runs ask on all servers at once, and returns nil if more than half succeed.
func (c redisClients) most(ask func(*redis.Client) error) error {
	answers := make(chan error, len(c))
	for _, client := range c {
		go func() { answers <- ask(client) }() // ends with the context of ask
	}
	var errs []error
	for range c {
		if err := <-answers; err != nil {
			errs = append(errs, err)
		}
	}
	if n := len(errs); 2*n >= len(c) {
		return fmt.Errorf("%d of %d servers cannot be used: %w", n, len(c), errs[0])
	}
	return nil
}

func (c redisClients) close() error {
	var errs []error
	for _, client := range c {
		errs = append(errs, client.Close())
	}
	return errors.Join(errs...)
}

// tryRedisWrite sets a key only if it exists, and it never does. A replica, a full server
// and one that cannot save its data refuse that.
func tryRedisWrite(ctx context.Context, client *redis.Client, key string) error {
	err := client.SetXX(ctx, key, "", redis.KeepTTL).Err()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if _, answered := errors.AsType[redis.Error](err); answered {
		return noWrites(err)
	}
	return err
}

// quietRedis stops the client library from logging the errors that each call returns.
// Its logger is global.
var quietRedis = sync.OnceFunc(func() { redis.SetLogger(silentRedis{}) })

type silentRedis struct{}

func (silentRedis) Printf(context.Context, string, ...any) {}

// inRedis opens a lock on one Redis server, or on several for Redlock.
func inRedis[L lock.Locker](newLocker func(redislock.Config) (L, error)) opener {
	return func(ctx context.Context, cfg *Config) (b *Backend, err error) {
		clients, err := cfg.Servers.openRedis(ctx)
		if err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, clients.close())
			}
		}()
		b = &Backend{close: clients.close, ping: func(ctx context.Context) error {
			return clients.most(func(client *redis.Client) error { return tryRedisWrite(ctx, client, cfg.unusedKey()) })
		}}
		if cfg.Strategy.Token {
			if b.Source, err = redisSource(ctx, clients[0], cfg.Servers.Prefix+redisSourceKey); err != nil {
				return nil, err
			}
		}
		if b.Locker, err = newLocker(redislock.Config{Clients: clients, Prefix: cfg.prefix(), TTL: cfg.TTL, Owner: cfg.owner()}); err != nil {
			return nil, err
		}
		return b, nil
	}
}

func redisSource(ctx context.Context, client *redis.Client, key string) (string, error) {
	if err := client.SetNX(ctx, key, uuid.NewString(), 0).Err(); err != nil {
		return "", err
	}
	name, err := client.Get(ctx, key).Result()
	return "redis " + name, err
}

func examineRedis(ctx context.Context, e *examination) error {
	quietRedis()
	var failed []error
	for _, addr := range e.servers.RedisAddrs {
		client, err := redislock.Open(addr)
		if err != nil {
			return err
		}
		if err := e.redisServer(ctx, client); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", redacted(addr), err))
		}
		_ = client.Close()
	}
	if 2*len(failed) >= len(e.servers.RedisAddrs) {
		return errors.Join(failed...)
	}
	for _, err := range failed {
		e.Warn(doctor.Answers, "start it: Redlock needs more than half of its servers", "%v", err)
	}
	return nil
}

func (e *examination) redisServer(ctx context.Context, client *redis.Client) error {
	at := ""
	if e.strategy.Lock == strategy.Redlock {
		at = " " + client.Options().Addr
	}
	text, err := client.Info(ctx).Result()
	if err != nil {
		return err
	}
	info := fields(strings.Split(text, "\r\n"), ":")
	e.CheckVersion("version"+at, info["redis_version"], minRedis)
	if role := info["role"]; role != "master" {
		e.Fault("role"+at, "name the primary in --redis-addrs", "it is a replica of %s:%s", info["master_host"], info["master_port"])
	} else {
		e.Fine("role"+at, "primary")
	}
	if err := tryRedisWrite(ctx, client, e.key+"/doctor"); err != nil {
		e.Fault("writes"+at, "read its log; NOPERM: let the account write the keys of --etcd-prefix; OOM: raise maxmemory; READONLY: name the primary", "refused: %v", err)
	} else {
		e.Fine("writes"+at, "accepted")
	}
	if policy := info["maxmemory_policy"]; policy != "noeviction" && policy != "" {
		e.Warn("eviction"+at, "set maxmemory-policy to noeviction", "maxmemory-policy is %s: an evicted lock gets a second holder", policy)
	} else {
		e.Fine("eviction"+at, "none")
	}
	if info["aof_enabled"] != "1" {
		e.Warn("persistence"+at, "set appendonly yes and appendfsync always", "appendonly is off: after a restart, held locks are granted again")
	} else {
		e.Fine("persistence"+at, "appendonly is on")
	}
	return nil
}
