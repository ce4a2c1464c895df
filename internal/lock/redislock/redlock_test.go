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
	l, err := NewRedlock(RedlockConfig{Clients: clients, Prefix: testPrefix, TTL: ttl, Owner: testOwner})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.Close(ctx) // the servers may be gone
		if err := closeAll(clients); err != nil {
			tb.Error(err)
		}
	})
	return l
}

func TestRedlockOutlivesAMinority(t *testing.T) {
	s := start(t, 5)
	const ttl = 12 * time.Second // of which a twentieth is what a node may take
	here, there := newRedlock(t, s, ttl), newRedlock(t, s, ttl)
	held := locktest.MustLock(t, here, "n")
	s.nodes[0].Kill()
	sandboxtest.Pause(t, s.nodes[1].Process) // this one hangs: each request waits for it
	defer sandboxtest.Resume(t, s.nodes[1].Process)
	for range 2 { // two renewals
		before := s.expiry(t, "n")
		sandboxtest.Eventually(t, "a renewal", func() bool { return s.expiry(t, "n").Sub(before) > ttl/6 })
	}
	select {
	case <-held.Lost():
		t.Fatal("the grant is lost with a minority")
	default:
	}
	if _, err := there.TryLock(t.Context(), "n"); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("TryLock: %v, want %v", err, lock.ErrHeld)
	}
	locktest.MustUnlock(t, held)
	var took []time.Duration // on a busy machine one may be late, and not each
	for len(took) < 3 && (len(took) == 0 || slices.Min(took) > ttl/4) {
		began := time.Now()
		locktest.MustUnlock(t, locktest.MustLock(t, there, "n"))
		took = append(took, time.Since(began))
	}
	if slices.Min(took) > ttl/4 {
		t.Errorf("with one hanging node a Lock and an Unlock take %s", took)
	}
}

// expiry is when the last node will end a name's key.
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
	sandboxtest.Eventually(t, "an error that names each node that is dead", func() bool { // on a busy machine this may be over before the first refusal
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := l.Lock(ctx, "n")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Lock: %v", err)
		}
		return !slices.ContainsFunc(s.nodes[:3], func(node *sandbox.Redis) bool { return !strings.Contains(err.Error(), node.Addr) })
	})
	if _, err := l.Inspect(t.Context()); err == nil {
		t.Error("Inspect says what a minority knows")
	}
	// Nothing is left on the others, before any time is over.
	for i, client := range s.clients[3:] {
		sandboxtest.Eventually(t, "the end of what is left on node "+s.nodes[3+i].Addr, func() bool {
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

// TestRedlockNamesANodeThatHangs: a time-out alone does not.
func TestRedlockNamesANodeThatHangs(t *testing.T) {
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

// TestRedlockIsLostWithItsMajority: three of five nodes have forgotten it.
func TestRedlockIsLostWithItsMajority(t *testing.T) {
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
		t.Errorf("locks %v, %v: nobody has a majority", infos, err)
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
		t.Errorf("Revoke of what nobody holds: %v", err)
	}
	locktest.MustUnlock(t, one)
}
