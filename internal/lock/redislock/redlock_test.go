package redislock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

func newRedlock(tb testing.TB, s *servers, ttl time.Duration) *Redlock {
	tb.Helper()
	clients, err := openAll(strings.Split(s.Address(), ","))
	if err != nil {
		tb.Fatal(err)
	}
	l, err := NewRedlock(Config{Clients: clients, Prefix: testPrefix, TTL: ttl, Owner: testOwner})
	return locktest.Opened(tb, l, err, func() error { return closeAll(clients) })
}

func TestRedlockSurvivesTheLossOfAMinority(t *testing.T) {
	s := start(t, 5)
	const ttl = 12 * time.Second // a node must answer within a twentieth of it
	here, there := newRedlock(t, s, ttl), newRedlock(t, s, ttl)
	held := locktest.MustLock(t, here, "n")
	s.nodes[0].Kill()
	sandboxtest.Pause(t, s.nodes[1].Process) // each request waits for this node
	defer sandboxtest.Resume(t, s.nodes[1].Process)
	for range 2 { // two renewals
		before := s.expiry(t, "n")
		sandboxtest.Eventually(t, "a renewal", func() bool { return s.expiry(t, "n").Sub(before) > ttl/6 })
	}
	select {
	case <-held.Lost():
		t.Fatal("the grant is lost although a majority is up")
	default:
	}
	// On a busy machine, a node that is up may answer too late to be counted.
	sandboxtest.Eventually(t, "a TryLock that finds the lock held", func() bool {
		_, err := there.TryLock(t.Context(), "n")
		if err == nil {
			t.Fatal("TryLock got a lock that is held")
		}
		return errors.Is(err, lock.ErrHeld)
	})
	locktest.UnlockAnyway(t, held)
	var took []time.Duration // a busy machine may delay some, but not all
	for len(took) < 3 && (len(took) == 0 || slices.Min(took) > ttl/4) {
		began := time.Now()
		locktest.UnlockAnyway(t, locktest.MustLock(t, there, "n"))
		took = append(took, time.Since(began))
	}
	if slices.Min(took) > ttl/4 {
		t.Errorf("Lock and Unlock took %s with one hanging node, want less than a quarter of the TTL", took)
	}
}

// expiry returns when the key of a name expires on the last node.
func (s *servers) expiry(t *testing.T, name string) time.Time {
	t.Helper()
	left, err := s.clients[len(s.clients)-1].PTTL(t.Context(), testPrefix+name).Result()
	if err != nil || left < 0 {
		t.Fatalf("the key of %s: %s, %v", name, left, err)
	}
	return time.Now().Add(left)
}

func TestRedlockRefusesWithoutAMajority(t *testing.T) {
	s := start(t, 5)
	l := newRedlock(t, s, longTTL)
	for _, node := range s.nodes[:3] {
		node.Kill()
	}
	sandboxtest.Eventually(t, "an error that names each dead node", func() bool { // the context may end before the first error
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := l.Lock(ctx, "n")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Lock: %v", err)
		}
		return !slices.ContainsFunc(s.nodes[:3], func(node *sandbox.Redis) bool { return !strings.Contains(err.Error(), node.Addr) })
	})
	if _, err := l.Inspect(t.Context()); err == nil {
		t.Error("Inspect succeeded with a minority")
	}
	// The other nodes have no key, long before its TTL ends.
	for i, client := range s.clients[3:] {
		sandboxtest.Eventually(t, "the deletion of the key on node "+s.nodes[3+i].Addr, func() bool {
			n, err := client.Exists(t.Context(), testPrefix+"n").Result()
			if err != nil {
				t.Fatal(err)
			}
			return n == 0
		})
	}
	for _, node := range s.nodes[:3] {
		if err := node.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

func TestRedlockErrorsNameTheNodesThatHang(t *testing.T) {
	s := start(t, 3)
	l := newRedlock(t, s, testTTL)
	for _, node := range s.nodes[1:] {
		sandboxtest.Pause(t, node.Process)
		defer sandboxtest.Resume(t, node.Process)
	}
	_, err := l.TryLock(t.Context(), "n")
	for _, node := range s.nodes[1:] {
		if err == nil || !strings.Contains(err.Error(), node.Addr) {
			t.Errorf("TryLock: %v; want it to name %s", err, node.Addr)
		}
	}
}

func TestARedlockIsLostWhenAMajorityLosesItsKey(t *testing.T) {
	s := start(t, 5)
	here, there := newRedlock(t, s, longTTL), newRedlock(t, s, longTTL)
	held := locktest.MustLock(t, here, "n")
	for _, client := range s.clients[:3] {
		if err := client.Del(t.Context(), testPrefix+"n").Err(); err != nil {
			t.Fatal(err)
		}
	}
	infos, err := there.Inspect(t.Context())
	if err != nil || len(infos) != 0 {
		t.Errorf("Inspect returned %v, %v; want none, as no holder has a majority", infos, err)
	}
	next := locktest.MustLock(t, there, "n")
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
	}
	locktest.MustUnlock(t, next)
}

func TestRedlockInspectAndRevoke(t *testing.T) {
	s := start(t, 5)
	here, there := newRedlock(t, s, longTTL), newRedlock(t, s, longTTL)
	one, two := locktest.MustLock(t, here, "b"), locktest.MustLock(t, here, "a")
	s.nodes[4].Kill()
	infos, err := there.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 2 || infos[0].Name != "a" || infos[1].Name != "b" || infos[0].Holder != testOwner || infos[0].Since.IsZero() {
		t.Errorf("locks %+v", infos)
	}
	if err := there.Revoke(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, there, "a"))
	if err := two.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after Revoke: %v", err)
	}
	if err := there.Revoke(t.Context(), "a"); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of a free name: %v", err)
	}
	locktest.MustUnlock(t, one)
}
