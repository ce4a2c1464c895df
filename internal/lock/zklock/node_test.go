package zklock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const someID = "0190a0b0-0000-7000-8000-000000000000"

func TestTheQueueKeepsItsOrderWhenTheCounterWraps(t *testing.T) {
	want := []string{someID + "-2147483646", someID + "-2147483647", someID + "--2147483648", someID + "--2147483647"}
	got := inOrder([]string{want[3], "a-foreign-node", want[0], someID, someID + "-x", want[2], want[1]})
	if !slices.Equal(got, want) {
		t.Errorf("queue %q, want %q", got, want)
	}
	if got := inOrder([]string{someID + "-0000000010", someID + "-0000000009"}); got[0] != someID+"-0000000009" {
		t.Errorf("queue %q", got)
	}
}

func TestEveryNameHasItsOwnPath(t *testing.T) {
	l := &Locker{cfg: Config{Prefix: "/p"}}
	seen := map[string]bool{}
	for _, name := range []string{"SKU-1", ".", "..", "...", "%2E", "a b", "ü", "\x01", "\xff", "a%2Fb"} {
		path := l.pathOf(name)
		back, err := nameOf(path[len("/p/"):])
		if err != nil || back != name {
			t.Errorf("%q has the path %s, whose name is %q, %v", name, path, back, err)
		}
		if seen[path] {
			t.Errorf("%q has the path of another name: %s", name, path)
		}
		seen[path] = true
	}
}

func TestInspectListsHolderAndWaitersAndRevokeEndsTheGrant(t *testing.T) {
	s := start(t, 1)
	here := newLocker(t, longTTL, s.Addrs()...)
	if infos, err := here.Inspect(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("Inspect before the first lock: %v, %v", infos, err)
	}
	asked := time.Now().Truncate(time.Millisecond) // the resolution of Since
	held, other := locktest.MustLock(t, here, "n"), locktest.MustLock(t, here, "a b")
	waiter := locktest.LockAside(t, newLocker(t, longTTL, s.Addrs()...), "n")
	s.entries(t, "n", 2)
	infos, err := here.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range infos {
		if infos[i].Since.Before(asked) || time.Since(infos[i].Since) > patience {
			t.Errorf("Since is %s, want a time after %s", infos[i].Since, asked)
		}
		infos[i].Since = time.Time{}
	}
	want := []lock.Info{
		{Name: "a b", Holder: testOwner, Replica: "r", Token: other.Token()},
		{Name: "n", Holder: testOwner, Replica: "r", Token: held.Token(), Queue: []string{testOwner}},
	}
	if diff := cmp.Diff(want, infos); diff != "" {
		t.Errorf("Inspect (-want +got):\n%s", diff)
	}
	var refusal *lock.HeldError
	if _, err := here.TryLock(t.Context(), "n"); !errors.As(err, &refusal) || refusal.Holder != testOwner {
		t.Errorf("TryLock: %v, want the holder's name", err)
	}

	if err := here.Revoke(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, held.Lost(), "the loss")
	locktest.MustUnlock(t, waiter.Granted(t))
	if err := here.Revoke(t.Context(), "n"); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of a free lock: %v", err)
	}
}

func TestInspectReturnsAtItsDeadline(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, longTTL, s.Addrs()...)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
	s.Pause(t)
	defer s.Resume(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.Inspect(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Inspect: %v", err)
	}
	if err := l.Revoke(ctx, "n"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Revoke: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{Servers: []string{"h:1"}, Prefix: "p/", TTL: time.Second}
	for i, spoil := range []func(*Config){
		func(c *Config) { c.Servers = nil },
		func(c *Config) { c.Servers = []string{"h"} },
		func(c *Config) { c.Prefix = "/" },
		func(c *Config) { c.TTL = time.Second - 1 },
	} {
		cfg := good
		if spoil(&cfg); cfg.check() == nil {
			t.Errorf("check %d of %+v succeeded, want an error", i, cfg)
		}
	}
	if err := good.check(); err != nil || good.Prefix != "/p" {
		t.Errorf("prefix %q, %v", good.Prefix, err)
	}
}

// leader returns the ensemble's leader.
func (s *server) leader(t *testing.T) *sandbox.ZooKeeperNode {
	t.Helper()
	var leader *sandbox.ZooKeeperNode
	sandboxtest.Eventually(t, "a leader", func() bool {
		for _, node := range s.Nodes {
			status, err := node.Ask(t.Context(), "srvr")
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(status, "\nMode: leader\n") {
				leader = node
			}
		}
		return leader != nil
	})
	return leader
}
