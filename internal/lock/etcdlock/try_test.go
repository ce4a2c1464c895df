package etcdlock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// newTry makes a Try with its own client and a long lease. The test's end closes it.
func newTry(t *testing.T, endpoints []string) *Try { return newTryFor(t, longTTL, endpoints) }

func newTryFor(t *testing.T, ttl time.Duration, endpoints []string) *Try {
	t.Helper()
	return opened(t, NewTry, endpoints, Config{TTL: ttl})
}

// leases returns the number of leases in etcd.
func (s *server) leases(tb testing.TB) int {
	tb.Helper()
	answer, err := s.client.Leases(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return len(answer.Leases)
}

func TestTryNamesTheHolder(t *testing.T) {
	s := start(t, 1)
	here, there := newTry(t, s.EtcdEndpoints()), newTry(t, s.EtcdEndpoints())
	asked := time.Now()
	held := locktest.MustLock(t, here, "n")
	_, err := there.TryLock(t.Context(), "n")
	var refusal *lock.HeldError
	if !errors.As(err, &refusal) || refusal.Holder != "r@h:1" {
		t.Errorf("TryLock: %v, want the holder r@h:1", err)
	}
	all, err := there.Inspect(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "n" || all[0].Holder != "r@h:1" || all[0].Replica != "r" ||
		all[0].Token != held.Token() || all[0].Since.Before(asked.Round(0)) {
		t.Errorf("Inspect: %+v, %v", all, err)
	}
	locktest.MustUnlock(t, held)
}

// TestATryWaiterIsNotified by its watch, and not by reading again after a TTL.
func TestATryWaiterIsNotified(t *testing.T) {
	s := start(t, 1)
	here, there := newTry(t, s.EtcdEndpoints()), newTry(t, s.EtcdEndpoints())
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	sandboxtest.Eventually(t, "the waiter's watch", func() bool { return s.metric(t, "etcd_debugging_mvcc_watcher_total") == 1 })
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, waiter.Granted(t))
	sandboxtest.Eventually(t, "the watch's end", func() bool { return s.metric(t, "etcd_debugging_mvcc_watcher_total") == 0 })
}

func TestRevokeEndsATry(t *testing.T) {
	s := start(t, 1)
	here, there := newTryFor(t, noticeTTL, s.EtcdEndpoints()), newTry(t, s.EtcdEndpoints())
	if err := there.Revoke(t.Context(), "n"); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke: %v, want %v", err, lock.ErrNotHeld)
	}
	held := locktest.MustLock(t, here, "n")
	if err := there.Revoke(t.Context(), "n"); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, held.Lost(), "the loss")
}

// TestUnlockOfATryIsCompared: another holder has the key, and no renewal has noticed.
func TestUnlockOfATryIsCompared(t *testing.T) {
	s := start(t, 1)
	here, there := newTry(t, s.EtcdEndpoints()), newTry(t, s.EtcdEndpoints())
	held := locktest.MustLock(t, here, "n")
	s.Remove(t, here.store.key("n"))
	next := locktest.MustLock(t, there, "n")
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
	}
	if len(s.Entries(t, "n")) != 1 {
		t.Error("Unlock deleted a later holder's key")
	}
	locktest.MustUnlock(t, next)
}

// TestTryLeavesNoLease after a refusal, an Unlock, or a lost race between the read and
// the write.
func TestTryLeavesNoLease(t *testing.T) {
	s := start(t, 1)
	here, there := newTry(t, s.EtcdEndpoints()), newTry(t, s.EtcdEndpoints())
	held := locktest.MustLock(t, here, "n")
	if _, err := there.TryLock(t.Context(), "n"); !errors.Is(err, lock.ErrHeld) {
		t.Errorf("TryLock: %v", err)
	}
	if n := s.leases(t); n != 1 {
		t.Errorf("%d leases with one holder, want 1", n)
	}
	locktest.MustUnlock(t, held)
	done := make(chan error)
	const rivals = 8
	lockers := []*Try{here, there, newTry(t, s.EtcdEndpoints())}
	for i := range rivals {
		go func() {
			held, err := lockers[i%len(lockers)].TryLock(t.Context(), "n")
			if err == nil {
				err = held.Unlock(t.Context())
			}
			done <- err
		}()
	}
	for range rivals {
		if err := <-done; err != nil && !errors.Is(err, lock.ErrHeld) {
			t.Error(err)
		}
	}
	if n := s.leases(t); n != 0 {
		t.Errorf("%d leases are left, want 0", n)
	}
}

// TestAPutWithoutAnAnswerIsSettled: the answer comes after the caller has gone, and the
// lease does not end in time.
func TestAPutWithoutAnAnswerIsSettled(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, strings.TrimPrefix(s.Etcd[0].Endpoint, "http://"))
	cutOff := newTry(t, []string{"http://" + link.Addr})
	locktest.MustUnlock(t, locktest.MustLock(t, cutOff, "another")) // connects it
	release := link.Hold()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := cutOff.Lock(ctx, "n")
	release()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock: %v", err)
	}
	sandboxtest.Eventually(t, "the lease and the key to go", func() bool { return s.leases(t) == 0 && len(s.keys(t)) == 0 })
	other := newTry(t, s.EtcdEndpoints())
	locktest.MustUnlock(t, locktest.MustLock(t, other, "n"))
}

// TestALatePutOfATryFails, because its lease is revoked.
func TestALatePutOfATryFails(t *testing.T) {
	s := start(t, 1)
	l := newTry(t, s.EtcdEndpoints())
	granted, err := s.client.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	l.store.grants.Store("o/1", tryGrant{lease: granted.ID}) // its put has no answer yet
	if err := l.store.Release(t.Context(), "n", "o/1"); err != nil {
		t.Errorf("Release: %v", err)
	}
	if _, err := s.client.Put(t.Context(), l.store.key("n"), "", clientv3.WithLease(granted.ID)); err == nil {
		t.Error("the late put was applied")
	}
}
