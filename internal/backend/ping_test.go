package backend_test

import (
	"context"
	"errors"
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

// open makes the backend of a strategy.
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
			_ = g.Locker.Close(context.Background()) // of a server that may be gone
		}
		_ = g.Close()
	})
	return g
}

// await pings until that gives want: some servers take a moment. A want of nil is
// no error, and errAny one of any kind.
func await(t *testing.T, g *backend.Backend, what string, want error) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // as readiness has
		err := g.Ping(ctx)
		cancel()
		if errors.Is(err, want) || errors.Is(want, errAny) && err != nil {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: ping: %v, want %v", what, err, want)
		}
	}
}

var errAny = errors.New("any error")

func TestEtcdThatIsFullOrAloneIsNotReady(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 3})
	for _, name := range []string{"etcd", "etcd-try", "etcd-cas"} {
		g := open(t, name, backend.Servers{EtcdEndpoints: own.EtcdEndpoints()})
		before, err := g.Reached(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		await(t, g, "healthy", nil)
		if after, err := g.Reached(t.Context()); err != nil || after != before {
			t.Errorf("%s: pings took etcd from revision %d to %d, %v", name, before, after, err)
		}
		alarm(t, g.Etcd, pb.AlarmRequest_ACTIVATE)
		await(t, g, "full", backend.ErrNoWrites)
		alarm(t, g.Etcd, pb.AlarmRequest_DEACTIVATE)
		await(t, g, "with room again", nil)
	}
	g := open(t, "etcd-cas", backend.Servers{EtcdEndpoints: own.EtcdEndpoints()})
	own.Etcd[0].Kill()
	own.Etcd[1].Kill()
	await(t, g, "without a majority", errAny)
	if err := own.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, g, "with a majority", nil)
}

// alarm sets, or clears, what etcd does when its quota is full.
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

func TestRedisThatTakesNoWritesIsNotReady(t *testing.T) {
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
		await(t, one, "before it is "+tt.what, nil)
		do(clients[0], tt.begins)
		await(t, one, tt.what, backend.ErrNoWrites)
		await(t, most, "one of three is "+tt.what, nil)
		do(clients[1], tt.begins)
		await(t, most, "two of three are "+tt.what, backend.ErrNoWrites)
		do(clients[0], tt.ends)
		do(clients[1], tt.ends)
		await(t, most, "after two were "+tt.what, nil)
	}
	if n := clients[0].DBSize(t.Context()).Val(); n != size {
		t.Errorf("pings left %d keys, there were %d", n, size)
	}
}

func TestMemcachedIsAskedForAWrite(t *testing.T) {
	tier.OnlyTestAll(t, "memcached")
	t.Parallel()
	server, err := sandbox.StartMemcached(t.Context(), sandbox.MemcachedConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	g := open(t, "memcached", backend.Servers{MemcachedAddr: server.Addr})
	await(t, g, "healthy", nil)
	server.Kill()
	await(t, g, "dead", errAny)
}

func TestZooKeeperWithoutAMajorityIsNotReady(t *testing.T) {
	tier.OnlyTestAll(t, "ZooKeeper")
	t.Parallel()
	ensemble, err := sandbox.StartZooKeeper(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ensemble.Close() })
	g := open(t, "zookeeper", backend.Servers{ZooKeeperServers: ensemble.Addrs()})
	await(t, g, "healthy", nil)
	for _, node := range ensemble.Nodes[:2] {
		sandboxtest.Pause(t, node.Process)
	}
	await(t, g, "without a majority", errAny)
	for _, node := range ensemble.Nodes[:2] {
		sandboxtest.Resume(t, node.Process)
	}
	await(t, g, "with a majority", nil)
}
