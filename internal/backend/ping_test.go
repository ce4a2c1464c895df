package backend_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/backend"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

// open opens the backend of a strategy.
func open(t *testing.T, name string, servers backend.Servers) *backend.Backend {
	t.Helper()
	row, err := strategy.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	servers.Prefix = "test/"
	g, err := backend.Open(t.Context(), backend.Config{
		Strategy: row, Servers: servers, Database: "shop", Replica: "a", TTL: 5 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.Locker != nil {
			_ = g.Locker.Close(context.Background()) // the server may be down
		}
		_ = g.Close()
	})
	return g
}

// awaitPing pings until the result is want, because some servers take a moment. errAny is
// any error.
func awaitPing(t *testing.T, b *backend.Backend, what string, want error) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprintf("ping to return %v from a server that is %s", want, what), func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // as readiness does
		defer cancel()
		err := b.Ping(ctx)
		return errors.Is(err, want) || errors.Is(want, errAny) && err != nil
	})
}

var errAny = errors.New("any error")

func TestPingFailsOnAFullEtcdAndWithoutAMajority(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 3})
	for _, name := range []string{"etcd", "etcd-try", "etcd-cas"} {
		g := open(t, name, backend.Servers{EtcdEndpoints: own.EtcdEndpoints()})
		before, err := g.Reached(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		awaitPing(t, g, "healthy", nil)
		if after, err := g.Reached(t.Context()); err != nil || after != before {
			t.Errorf("%s: Ping moved etcd from revision %d to %d, %v", name, before, after, err)
		}
		alarm(t, g.Etcd, pb.AlarmRequest_ACTIVATE)
		awaitPing(t, g, "full", backend.ErrNoWrites)
		alarm(t, g.Etcd, pb.AlarmRequest_DEACTIVATE)
		awaitPing(t, g, "no longer full", nil)
	}
	g := open(t, "etcd-cas", backend.Servers{EtcdEndpoints: own.EtcdEndpoints()})
	own.Etcd[0].Kill()
	own.Etcd[1].Kill()
	awaitPing(t, g, "without a majority", errAny)
	if err := own.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitPing(t, g, "with a majority", nil)
}

// alarm activates or deactivates the alarm that etcd raises when it is full.
func alarm(t *testing.T, client *clientv3.Client, action pb.AlarmRequest_AlarmAction) {
	t.Helper()
	members, err := client.MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = pb.NewMaintenanceClient(client.ActiveConnection()).Alarm(t.Context(),
		&pb.AlarmRequest{Action: action, MemberID: members.Members[0].ID, Alarm: pb.AlarmType_NOSPACE})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPingFailsOnARedisThatTakesNoWrites(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	t.Parallel()
	nodes, err := sandbox.StartRedisNodes(t.Context(), 3, sandbox.RedisConfig{})
	if err != nil {
		t.Fatal(err)
	}
	addrs := make([]string, len(nodes))
	clients := make([]*redis.Client, len(nodes))
	for i, node := range nodes {
		addrs[i], clients[i] = node.Addr, redis.NewClient(&redis.Options{Addr: node.Addr})
		t.Cleanup(func() { _ = clients[i].Close(); _ = node.Close() })
	}
	one, most := open(t, "redis", backend.Servers{RedisAddrs: addrs[:1]}), open(t, "redlock", backend.Servers{RedisAddrs: addrs})
	size := clients[0].DBSize(t.Context()).Val()
	for _, tt := range []struct {
		what         string
		begins, ends []any
	}{
		{"a replica", []any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}},
		{"full", []any{"CONFIG", "SET", "maxmemory", "1"}, []any{"CONFIG", "SET", "maxmemory", "0"}},
		{"without replicas", []any{"CONFIG", "SET", "min-replicas-to-write", "1"}, []any{"CONFIG", "SET", "min-replicas-to-write", "0"}},
	} {
		do := func(client *redis.Client, command []any) {
			t.Helper()
			if err := client.Do(t.Context(), command...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		awaitPing(t, one, "healthy, before it is "+tt.what, nil)
		do(clients[0], tt.begins)
		awaitPing(t, one, tt.what, backend.ErrNoWrites)
		awaitPing(t, most, "only one of three that is "+tt.what, nil)
		do(clients[1], tt.begins)
		awaitPing(t, most, "two of three that are "+tt.what, backend.ErrNoWrites)
		do(clients[0], tt.ends)
		do(clients[1], tt.ends)
		awaitPing(t, most, "healthy, after two were "+tt.what, nil)
	}
	if n := clients[0].DBSize(t.Context()).Val(); n != size {
		t.Errorf("there are %d keys after Ping, and %d before", n, size)
	}
}

func TestPingFailsOnADeadMemcached(t *testing.T) {
	tier.OnlyTestAll(t, "memcached")
	t.Parallel()
	server, err := sandbox.StartMemcached(t.Context(), sandbox.MemcachedConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	g := open(t, "memcached", backend.Servers{MemcachedAddr: server.Addr})
	awaitPing(t, g, "healthy", nil)
	server.Kill()
	awaitPing(t, g, "dead", errAny)
}

func TestPingFailsOnZooKeeperWithoutAMajority(t *testing.T) {
	tier.OnlyTestAll(t, "ZooKeeper")
	t.Parallel()
	ensemble, err := sandbox.StartZooKeeper(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ensemble.Close() })
	g := open(t, "zookeeper", backend.Servers{ZooKeeperServers: ensemble.Addrs()})
	awaitPing(t, g, "healthy", nil)
	for _, node := range ensemble.Nodes[:2] {
		sandboxtest.Pause(t, node.Process)
	}
	awaitPing(t, g, "without a majority", errAny)
	for _, node := range ensemble.Nodes[:2] {
		sandboxtest.Resume(t, node.Process)
	}
	awaitPing(t, g, "with a majority", nil)
}
