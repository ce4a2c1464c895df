// Package lockserver runs the private server that a strategy locks in, and says
// how it is reached. What the strategy does there is left to others.
package lockserver

import (
	"context"
	"errors"
	"fmt"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
)

// Server is a running lock server, or an ensemble of them.
type Server struct {
	// Servers is how it is reached.
	Servers backend.Servers

	parts []func() error // each ends one, the last first
}

// Prefix is that of all keys.
const Prefix = "flashsale/"

// redlockNodes is what Redlock's own description has.
const redlockNodes = 5

// starters start what a strategy needs besides MySQL.
var starters = map[strategy.Server]func(*Server, context.Context) error{
	strategy.InMySQL: func(*Server, context.Context) error { return nil },
	strategy.InEtcd: func(s *Server, ctx context.Context) (err error) {
		s.Servers.EtcdEndpoints, err = s.startEtcd(ctx)
		return err
	},
	strategy.InZooKeeper:  (*Server).startZooKeeper,
	strategy.InRedis:      func(s *Server, ctx context.Context) error { return s.startRedis(ctx, 1) },
	strategy.InRedlock:    func(s *Server, ctx context.Context) error { return s.startRedis(ctx, redlockNodes) },
	strategy.InMemcached:  (*Server).startMemcached,
	strategy.InKubernetes: (*Server).startKubernetes,
}

// programs find those that are not built in.
var programs = map[strategy.Server]func() error{
	strategy.InZooKeeper:  sandbox.FindZooKeeper,
	strategy.InRedis:      sandbox.FindRedis,
	strategy.InRedlock:    sandbox.FindRedis,
	strategy.InMemcached:  sandbox.FindMemcached,
	strategy.InKubernetes: sandbox.FindKubernetes,
}

// Check makes sure that all programs that the strategies need are installed, so
// that a long run does not end in its middle for want of one. It starts nothing.
func Check(rows ...strategy.Strategy) error {
	var missing []error
	said := map[string]bool{} // two strategies may lock in the same server
	for _, row := range rows {
		find := programs[row.Server]
		if find == nil {
			continue
		}
		if err := find(); err != nil && !said[err.Error()] {
			said[err.Error()] = true
			missing = append(missing, fmt.Errorf("%s: %w", row.Name, err))
		}
	}
	return errors.Join(missing...)
}

// Start starts what strategies with that server need, and returns once it serves.
// On an error nothing is left running. ctx bounds the start alone.
func Start(ctx context.Context, what strategy.Server) (*Server, error) {
	start, ok := starters[what]
	if !ok {
		return nil, fmt.Errorf("no private %s can be started", what)
	}
	s := &Server{Servers: backend.Servers{Prefix: Prefix}}
	if err := start(s, ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", what, err), s.Stop())
	}
	return s, nil
}

// Stop ends it, and removes its data.
func (s *Server) Stop() error {
	var errs []error
	for i := len(s.parts) - 1; i >= 0; i-- {
		errs = append(errs, s.parts[i]())
	}
	s.parts = nil
	return errors.Join(errs...)
}

func (s *Server) startEtcd(ctx context.Context) ([]string, error) {
	stack, err := sandbox.Start(ctx, sandbox.Config{EtcdNodes: 1})
	if err != nil {
		return nil, err
	}
	s.parts = append(s.parts, func() error { stack.Stop(); return nil })
	return stack.EtcdEndpoints(), nil
}

func (s *Server) startZooKeeper(ctx context.Context) error {
	zk, err := sandbox.StartZooKeeper(ctx, 1)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, zk.Close)
	s.Servers.ZooKeeperServers = zk.Addrs()
	return nil
}

func (s *Server) startRedis(ctx context.Context, nodes int) error {
	for range nodes {
		redis, err := sandbox.StartRedis(ctx, sandbox.RedisConfig{})
		if err != nil {
			return err
		}
		s.parts = append(s.parts, redis.Close)
		s.Servers.RedisAddrs = append(s.Servers.RedisAddrs, redis.Addr)
	}
	return nil
}

func (s *Server) startMemcached(ctx context.Context) error {
	memcached, err := sandbox.StartMemcached(ctx, sandbox.MemcachedConfig{})
	if err != nil {
		return err
	}
	s.parts = append(s.parts, memcached.Close)
	s.Servers.MemcachedAddr = memcached.Addr
	return nil
}
