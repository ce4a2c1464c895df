package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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

func TestEtcdHasOneLeaderAtATime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 3})
	first, err := s.EtcdLeader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sandboxtest.Pause(t, s.Etcd[first].Process)
	next, err := s.EtcdLeader(ctx) // waits for the election
	if err != nil {
		t.Fatal(err)
	}
	if next == first {
		t.Errorf("node %d is paused and leads", first)
	}
	s.Etcd[3-first-next].Kill()
	soon, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if leader, err := s.EtcdLeader(soon); err == nil {
		t.Errorf("node %d leads without a quorum", leader)
	}
}

// TestEtcdIsRestored checks what replicas see of a restored snapshot.
func TestEtcdIsRestored(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, nodes := range []int{1, 3} {
		s := sandboxtest.Start(t, sandbox.Config{EtcdNodes: nodes})
		client := dial(t, s.Etcd[nodes-1].Endpoint)
		put(ctx, t, client, "in the snapshot")
		path, err := s.EtcdSnapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		at, err := client.Get(ctx, "key")
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			put(ctx, t, client, "later")
		}
		for _, bump := range []bool{false, true} {
			if err := s.EtcdRestore(ctx, path, bump); err != nil {
				t.Fatal(err)
			}
			got, err := client.Get(ctx, "key")
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "in the snapshot" {
				t.Errorf("%d nodes, bump %t: read %v", nodes, bump, got.Kvs)
			}
			if got.Header.ClusterId != at.Header.ClusterId {
				t.Errorf("%d nodes, bump %t: the cluster has another id", nodes, bump)
			}
			if r := got.Header.Revision; r < at.Header.Revision || bump != (r > 1_000_000_000) || !bump && r > at.Header.Revision {
				t.Errorf("%d nodes, bump %t: the revision was %d in the snapshot and is %d", nodes, bump, at.Header.Revision, r)
			}
			put(ctx, t, client, "after the restore")
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		if err := s.EtcdRestore(ctx, path+"-missing", false); err == nil || !strings.Contains(err.Error(), "restore etcd-") {
			t.Errorf("restore of a file that does not exist: got %v", err)
		}
		for _, node := range s.Etcd {
			if runs(node.Pid()) {
				t.Errorf("%s runs after a restore that failed", node.Name)
			}
		}
	}
}

func TestEtcdRunsOutOfSpace(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := dial(t, sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1, EtcdQuota: 4 << 20}).Etcd[0].Endpoint)
	// The size is known only after each commit of the database: write until ctx ends.
	var err error
	for n := 0; err == nil; n++ {
		_, err = client.Put(ctx, fmt.Sprint(n), strings.Repeat("x", 1<<20))
	}
	if !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("got %v, want %v", err, rpctypes.ErrNoSpace)
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
