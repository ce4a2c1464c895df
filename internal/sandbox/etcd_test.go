package sandbox_test

import (
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestThreeNodesServeWhileTwoRun(t *testing.T) {
	ctx := t.Context()
	s := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 3})
	if got := len(s.EtcdEndpoints()); got != 3 {
		t.Fatalf("%d endpoints, want 3", got)
	}
	clients := make([]*clientv3.Client, len(s.Etcd))
	for i, node := range s.Etcd {
		clients[i] = dial(t, node.Endpoint)
		if _, err := clients[i].Put(ctx, "key", fmt.Sprint(i)); err != nil {
			t.Fatalf("put through %s: %v", node.Name, err)
		}
	}

	s.Etcd[0].Kill()
	put(ctx, t, clients[1], "after a crash")
	if err := s.Etcd[0].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := clients[0].Get(ctx, "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "after a crash" {
		t.Errorf("the restarted node reads %v, %v", got, err)
	}
}

func TestClustersHaveDifferentIDs(t *testing.T) {
	ids := map[uint64]bool{}
	for range 2 {
		s := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
		got, err := dial(t, s.Etcd[0].Endpoint).Get(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		ids[got.Header.ClusterId] = true
	}
	if len(ids) != 2 {
		t.Errorf("two clusters have the ids %v", ids)
	}
}

func TestNumberOfNodesIsChecked(t *testing.T) {
	for _, n := range []int{-1, 2, 4} {
		if s, err := sandbox.Start(t.Context(), sandbox.Config{EtcdNodes: n}); err == nil {
			s.Stop()
			t.Errorf("%d nodes started", n)
		}
	}
}

func dial(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// put retries while a leader is being elected. The outcome of a failed put is unknown,
// which does no harm: each writes the same value.
func put(ctx context.Context, t *testing.T, client *clientv3.Client, value string) {
	t.Helper()
	for {
		_, err := client.Put(ctx, "key", value)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("put: %v", err)
		}
	}
}
