package main

import (
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// A Redis that lost its data has lost its locks. Its tokens still rise with its clock, so
// running replicas continue under the fence. A starting replica reports that the token
// source differs from the one in MySQL.
func TestEmptiedRedisIsRefused(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	t.Parallel()
	redis, err := sandbox.StartRedis(t.Context(), sandbox.RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := redis.Close(); err != nil {
			t.Error(err)
		}
	})
	dsn := newDSN(t)
	cfg := replicaConfig(dsn, "a", "redis")
	cfg.EtcdEndpoints, cfg.Args = nil, append(cfg.Args, "--redis-addrs="+redis.Addr)
	c := start(t, cfg)
	c.putSKU("lamp", 3)
	if status, err := c.order("lamp", "ann"); err != nil || status != 201 {
		t.Fatalf("got %d, %v; want 201", status, err)
	}
	if err := redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = serve(t, "--mysql-dsn="+dsn, "--strategy=redis", "--redis-addrs="+redis.Addr)
	if err == nil || !strings.Contains(err.Error(), `token source "redis `) || !strings.Contains(err.Error(), "fence adopt") {
		t.Errorf("got %v", err)
	}
	if status, err := c.order("lamp", "ben"); err != nil || status != 201 {
		t.Errorf("with an emptied Redis: got %d, %v; want 201", status, err)
	}
	auditOK(t, dsn)
}
