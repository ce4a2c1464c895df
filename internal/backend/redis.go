package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock/redislock"
)

// redisSourceKey names the data of a Redis: a random name, given to it by the
// first replica. A server that was emptied has none, and gets another; what it
// counts from then on must not be compared with what it counted before.
const redisSourceKey = "source"

func (s *Servers) checkRedis() error {
	if len(s.RedisAddrs) == 0 {
		return errors.New("--redis-addrs is missing")
	}
	if len(s.RedisAddrs) > 1 {
		return fmt.Errorf("--redis-addrs names %d servers: this strategy locks in one", len(s.RedisAddrs))
	}
	return s.checkRedisURLs()
}

func (s *Servers) checkRedlock() error {
	if n := len(s.RedisAddrs); n < 3 || n%2 == 0 {
		return fmt.Errorf("--redis-addrs names %d servers: an odd number is needed, three at least, each independent of the others", n)
	}
	return s.checkRedisURLs()
}

// checkRedisURLs finds what no waiting mends.
func (s *Servers) checkRedisURLs() error {
	for i, addr := range s.RedisAddrs {
		client, err := redislock.Open(addr) // it does not connect
		if err != nil {
			return fmt.Errorf("--redis-addrs: the %s is %w", ordinal(i), err)
		}
		if err := client.Close(); err != nil {
			return fmt.Errorf("--redis-addrs: close the %s: %w", ordinal(i), err)
		}
	}
	return nil
}

// redisClients connects to every server that is named, most of which must answer.
func (s *Servers) redisClients(ctx context.Context) ([]*redis.Client, error) {
	quietRedis()
	var clients []*redis.Client
	for _, addr := range s.RedisAddrs {
		client, err := redislock.Open(addr)
		if err != nil {
			return nil, closing(fmt.Errorf("--redis-addrs: %w", err), closeRedis(clients))
		}
		clients = append(clients, client)
	}
	if err := pingRedis(ctx, clients); err != nil {
		return nil, closing(err, closeRedis(clients))
	}
	return clients, nil
}

// mostRedis is nil where most of the servers do as they are asked.
func mostRedis(clients []*redis.Client, ask func(*redis.Client) error) error {
	answers := make(chan error, len(clients))
	for _, client := range clients {
		go func() { answers <- ask(client) }() // ends with the context of ask
	}
	var errs []error
	for range clients {
		if err := <-answers; err != nil {
			errs = append(errs, err)
		}
	}
	if n := len(errs); 2*n >= len(clients) {
		return fmt.Errorf("%d of %d servers cannot be used: %w", n, len(clients), errs[0])
	}
	return nil
}

func pingRedis(ctx context.Context, clients []*redis.Client) error {
	return mostRedis(clients, func(client *redis.Client) error { return client.Ping(ctx).Err() })
}

// askRedis asks for a write that is done where its key is: it never is. A replica,
// a server that is full and one that cannot save its data refuse it before that.
func askRedis(ctx context.Context, clients []*redis.Client, key string) error {
	return mostRedis(clients, func(client *redis.Client) error {
		err := client.SetXX(ctx, key, "", 0).Err()
		if _, answered := errors.AsType[redis.Error](err); answered && !errors.Is(err, redis.Nil) {
			return noWrites(err)
		}
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	})
}

// quietRedis keeps the client library from printing what every call returns. It
// has one logger for the whole process.
var quietRedis = sync.OnceFunc(func() { redis.SetLogger(silentRedis{}) })

type silentRedis struct{}

func (silentRedis) Printf(context.Context, string, ...any) {}

func closeRedis(clients []*redis.Client) func() error {
	return func() error {
		var errs []error
		for _, client := range clients {
			errs = append(errs, client.Close())
		}
		return errors.Join(errs...)
	}
}

// inRedis opens the lock of one Redis.
func inRedis(ctx context.Context, cfg *Config) (*Backend, error) {
	clients, err := cfg.Servers.redisClients(ctx)
	if err != nil {
		return nil, err
	}
	client := clients[0]
	source, err := redisSource(ctx, client, cfg.Servers.Prefix+redisSourceKey)
	if err != nil {
		return nil, closing(err, client.Close)
	}
	locker, err := redislock.New(redislock.Config{Client: client, Prefix: cfg.prefix(), TTL: cfg.TTL, Owner: cfg.owner()})
	if err != nil {
		return nil, closing(err, client.Close)
	}
	return &Backend{
		Locker: locker, Source: source, close: client.Close,
		ping: func(ctx context.Context) error { return askRedis(ctx, clients, cfg.neverMade()) },
	}, nil
}

func redisSource(ctx context.Context, client *redis.Client, key string) (string, error) {
	if err := client.SetNX(ctx, key, uuid.NewString(), 0).Err(); err != nil {
		return "", err
	}
	name, err := client.Get(ctx, key).Result()
	if err != nil {
		return "", err
	}
	return "redis " + name, nil
}

// inRedlock opens the lock of several Redis servers.
func inRedlock(ctx context.Context, cfg *Config) (*Backend, error) {
	clients, err := cfg.Servers.redisClients(ctx)
	if err != nil {
		return nil, err
	}
	locker, err := redislock.NewRedlock(redislock.RedlockConfig{Clients: clients, Prefix: cfg.prefix(), TTL: cfg.TTL, Owner: cfg.owner()})
	if err != nil {
		return nil, closing(err, closeRedis(clients))
	}
	return &Backend{
		Locker: locker, close: closeRedis(clients),
		ping: func(ctx context.Context) error { return askRedis(ctx, clients, cfg.neverMade()) },
	}, nil
}
