package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

func TestUnlockAfterALossOrASecondTimeSendsNoRequest(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		lost, returned := locktest.MustLock(t, l, "lost"), locktest.MustLock(t, l, "returned")
		locktest.MustUnlock(t, returned)
		m.end("lost")
		<-lost.Lost()
		m.hook(hooks{beforeRelease: hang})
		began := time.Now()
		for _, held := range []lock.Held{lost, returned} {
			if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
				t.Errorf("Unlock: %v", err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the calls took %s, want 0", took)
		}
	})
}

// TestUnlockNoticesAnExpiredLease after a pause of the process.
func TestUnlockNoticesAnExpiredLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocker(t, newMemory(), nil)
		held := locktest.MustLock(t, l, "n").(*held)
		held.lease.mu.Lock()
		held.lease.deadline = time.Now()
		held.lease.mu.Unlock()
		if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("Unlock: %v", err)
		}
		if !happened(held.Lost()) {
			t.Error("Unlock returned ErrLost, but Lost is open")
		}
		synctest.Wait()
		locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
		mustClose(t, l)
	})
}

func TestAFailedUnlockIsCompletedLater(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		held := locktest.MustLock(t, l, "n")
		m.hook(hooks{beforeRelease: unreachable})
		if err := held.Unlock(t.Context()); !errors.Is(err, errUnreachable) {
			t.Errorf("Unlock: %v", err)
		}
		m.hook(hooks{})
		time.Sleep(2 * poll)
		if owner := m.owner("n"); owner != "" {
			t.Errorf("%s still has the name after Unlock", owner)
		}
		if happened(held.Lost()) {
			t.Error("Unlock closed Lost")
		}
	})
}

// TestAGrantDuringCloseIsReleased: Close began before the server's answer came.
func TestAGrantDuringCloseIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := newLocker(t, m, nil)
		l.begin()
		closed := make(chan struct{})
		go func() { defer close(closed); mustClose(t, l) }()
		synctest.Wait()
		owner := newOwner("r")
		if _, err := m.Try(t.Context(), "n", owner); err != nil {
			t.Fatal(err)
		}
		if err := l.grant(&held{locker: l, name: "n", owner: owner}, time.Now()); !errors.Is(err, lock.ErrClosed) {
			t.Errorf("grant: %v", err)
		}
		l.wg.Done()
		<-closed
		if owner := m.owner("n"); owner != "" {
			t.Errorf("%s still has the name on the server, but no caller holds it", owner)
		}
	})
}

func TestRequestsToAFailingServerSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.hook(hooks{beforeTry: unreachable}) // Release still works
		l := newLocker(t, m, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.Lock(ctx, "n"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock: %v", err)
		}
		if n := m.asked(); n < 40 || n > 120 {
			t.Errorf("%d requests in a minute, want 40 to 120", n)
		}
		mustClose(t, l)
	})
}
