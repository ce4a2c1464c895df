package locktest

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// outlives: a grant is held for two leases by a process that runs.
func (s *suite) outlives(t *testing.T) {
	const name = "outlives"
	if !s.Capabilities.Renewed {
		// It has no lease to outlive, and then no server that could end one. How
		// a lease ends is what the tests of killed and stopped processes see.
		if s.TTL > 0 {
			t.Error("a lease is not renewed, and the suite does not know how such a grant ends")
		}
		s.unpromised(t, "a lease is renewed")
		return
	}
	here, there := s.open(t), s.openLong(t)
	for range tries { // a machine that stops for most of a TTL loses it
		if s.outlive(t, here, there, name) {
			return
		}
	}
	t.Errorf("the grant is lost each of %d times", tries)
}

// outlive holds a grant for two leases, and reports whether it was kept.
func (s *suite) outlive(t *testing.T, here, there lock.Locker, name string) bool {
	t.Helper()
	held := MustLock(t, here, name)
	for began := time.Now(); time.Since(began) < 2*s.TTL; time.Sleep(glance) {
		err := tryOnce(t, there, name)
		if errors.Is(err, lock.ErrHeld) && !happened(held.Lost()) {
			continue
		}
		t.Logf("TryLock %s after the grant, at a TTL of %s: %v; lost: %v",
			time.Since(began).Round(time.Millisecond), s.TTL, err, happened(held.Lost()))
		_ = unlock(held) // it may be lost
		return false
	}
	if err := unlock(held); err != nil {
		t.Log("Unlock:", err)
		return false
	}
	return true
}

// glance is how often a rival tries a lock that is to stay held.
const glance = 100 * time.Millisecond

// restarted: the server dies under a grant, and starts again on what it has kept.
// The lease is longer than that takes.
func (s *suite) restarted(t *testing.T) {
	const name = "restarted"
	if !s.served(t) {
		return
	}
	server, ok := s.server.(Restarter)
	if !ok || s.OpenLong == nil {
		t.Fatal("the server cannot be restarted: whether a grant survives that is not checked")
	}
	held := MustLock(t, s.open(t), name)
	server.Restart(t)
	rival := s.open(t)
	var err error
	eventually(t, func() bool {
		err = tryOnce(t, rival, name)
		return err == nil || errors.Is(err, lock.ErrHeld)
	}, "a lock to be granted or refused after the restart")
	if survived := err != nil; survived != s.Capabilities.Restart {
		t.Fatalf("the grant has survived the restart: %v; %v is declared", survived, s.Capabilities.Restart)
	}
	if s.Capabilities.Restart {
		if happened(held.Lost()) {
			t.Error("the grant is lost")
		}
		MustUnlock(t, held)
		MustUnlock(t, MustLock(t, rival, name))
		return
	}
	if err := unlock(held); err == nil { // the loss, or a connection that has ended
		t.Error("Unlock has given back what the restart has ended")
	}
}

// tryOnce takes a lock and gives it back, or says why it could not.
func tryOnce(t *testing.T, locker lock.Locker, name string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	held, err := locker.TryLock(ctx, name)
	if err == nil {
		MustUnlock(t, held)
	}
	return err
}
