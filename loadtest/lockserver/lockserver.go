// Package lockserver runs the private lock server of a strategy and returns its
// address.
package lockserver

import (
	"context"
	"errors"
	"fmt"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/strategy"
)

// Server is a running lock server, or a set of them.
type Server struct {
	// Servers has the addresses.
	Servers backend.Servers

	stops []func() error // in order of start
}

// Prefix is the prefix of all keys.
const Prefix = "flashsale/"

// redlockNodes is the number of nodes in Redlock's own description.
const redlockNodes = 5

// kinds has the lock servers of strategies: how to start one, and how to find its
// program, unless it is built in.
var kinds = map[strategy.Server]struct {
	start func(*Server, context.Context) error
	find  func() error
}{
	strategy.InMySQL: {start: func(*Server, context.Context) error { return nil }},
	strategy.InEtcd: {start: func(s *Server, ctx context.Context) (err error) {
		s.Servers.EtcdEndpoints, err = s.startEtcd(ctx)
		return err
	}},
	strategy.InZooKeeper:  {(*Server).startZooKeeper, sandbox.FindZooKeeper},
	strategy.InRedis:      {func(s *Server, ctx context.Context) error { return s.startRedis(ctx, 1) }, sandbox.FindRedis},
	strategy.InRedlock:    {func(s *Server, ctx context.Context) error { return s.startRedis(ctx, redlockNodes) }, sandbox.FindRedis},
	strategy.InMemcached:  {(*Server).startMemcached, sandbox.FindMemcached},
	strategy.InKubernetes: {(*Server).startKubernetes, sandbox.FindKubernetes},
}

// Check returns an error if a program that the strategies need is missing, so that a
// long run does not fail halfway. It starts nothing.
func Check(rows ...strategy.Strategy) error {
	var missing []error
	seen := map[string]bool{} // two strategies may use the same server
	for _, row := range rows {
		find := kinds[row.Server].find
		if find == nil {
			continue
		}
		if err := find(); err != nil && !seen[err.Error()] {
			seen[err.Error()] = true
			missing = append(missing, fmt.Errorf("%s: %w", row.Name, err))
		}
	}
	return errors.Join(missing...)
}

// Start starts the lock server of strategies and returns once it serves. On an error
// it leaves nothing running. ctx bounds only the start.
func Start(ctx context.Context, server strategy.Server) (*Server, error) {
	kind, ok := kinds[server]
	if !ok {
		return nil, fmt.Errorf("there is no private %s to start", server)
	}
	s := &Server{Servers: backend.Servers{Prefix: Prefix}}
	if err := kind.start(s, ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", server, err), s.Stop())
	}
	return s, nil
}

// Stop stops the server and removes its data.
func (s *Server) Stop() error {
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	s.stops = nil
	return errors.Join(errs...)
}

func (s *Server) startEtcd(ctx context.Context) (endpoints []string, err error) {
	stack, err := sandbox.Start(ctx, sandbox.Config{EtcdNodes: 1})
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() error { stack.Stop(); return nil })
	return stack.EtcdEndpoints(), nil
}

func (s *Server) startZooKeeper(ctx context.Context) error {
	zk, err := sandbox.StartZooKeeper(ctx, 1)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, zk.Close)
	s.Servers.ZooKeeperServers = zk.Addrs()
	return nil
}

func (s *Server) startRedis(ctx context.Context, nodes int) error {
	for range nodes {
		redis, err := sandbox.StartRedis(ctx, sandbox.RedisConfig{})
		if err != nil {
			return err
		}
		s.stops = append(s.stops, redis.Close)
		s.Servers.RedisAddrs = append(s.Servers.RedisAddrs, redis.Addr)
	}
	return nil
}

func (s *Server) startMemcached(ctx context.Context) error {
	memcached, err := sandbox.StartMemcached(ctx, sandbox.MemcachedConfig{})
	if err != nil {
		return err
	}
	s.stops = append(s.stops, memcached.Close)
	s.Servers.MemcachedAddr = memcached.Addr
	return nil
}
