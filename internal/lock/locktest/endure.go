package locktest

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// outlives holds a grant for two leases.
func (s *suite) outlives(t *testing.T) {
	const name = "outlives"
	if !s.Capabilities.Renewed {
		// The tests of killed and paused processes show how such a grant ends.
		if s.TTL > 0 {
			t.Error("the grant has a TTL, but Renewed is not declared")
		}
		return
	}
	here, there := s.open(t), s.openLong(t)
	for range tries { // a pause of the machine for most of a TTL loses the grant
		if s.outlive(t, here, there, name) {
			return
		}
	}
	t.Errorf("the grant was lost each of %d times", tries)
}

// outlive reports whether a grant lasts for two leases.
func (s *suite) outlive(t *testing.T, here, there lock.Locker, name string) bool {
	t.Helper()
	held := MustLock(t, here, name)
	for began := time.Now(); time.Since(began) < 2*s.TTL; time.Sleep(rivalPoll) {
		err := tryOnce(t, there, name)
		if errors.Is(err, lock.ErrHeld) && !happened(held.Lost()) {
			continue
		}
		t.Logf("TryLock %s after the grant, with a TTL of %s: %v; lost: %v",
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

// rivalPoll is how often another Locker tries to take a held lock.
const rivalPoll = 100 * time.Millisecond

// restarted kills the server under a grant and restarts it. The lease is longer than that.
func (s *suite) restarted(t *testing.T) {
	const name = "restarted"
	server, ok := s.server.(Restarter)
	if !ok {
		t.Fatal("the back-end has a server, but no Restart")
	}
	held := MustLock(t, s.open(t), name)
	server.Restart(t)
	rival := s.open(t)
	var err error
	eventually(t, "a lock to be granted or refused after the restart", func() bool {
		err = tryOnce(t, rival, name)
		return err == nil || errors.Is(err, lock.ErrHeld)
	})
	if survived := err != nil; survived != s.Capabilities.Restart {
		t.Fatalf("the grant survived the restart: %v; Restart is declared as %v", survived, s.Capabilities.Restart)
	}
	if s.Capabilities.Restart {
		if happened(held.Lost()) {
			t.Error("the grant is lost")
		}
		MustUnlock(t, held)
		MustUnlock(t, MustLock(t, rival, name))
		return
	}
	if err := unlock(held); err == nil {
		t.Error("Unlock succeeded although the restart has ended the grant")
	}
}

// tryOnce takes and releases a lock, or returns the error of TryLock.
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
