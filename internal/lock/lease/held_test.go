package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/lock"
)

func TestUnlockAfterALossOrTwiceAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := newLocker(t, m, nil)
		lost, returned := mustLock(t, l, "lost"), mustLock(t, l, "returned")
		mustUnlock(t, returned)
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
			t.Errorf("they took %s", took)
		}
		mustClose(t, l)
	})
}

// TestALossThatNobodyHasNoticedEndsUnlock: the process was paused until now.
func TestALossThatNobodyHasNoticedEndsUnlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocker(t, newMemory(), nil)
		held := mustLock(t, l, "n").(*held)
		held.kept.mu.Lock()
		held.kept.deadline = time.Now()
		held.kept.mu.Unlock()
		if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("Unlock: %v", err)
		}
		if !happened(held.Lost()) {
			t.Error("Unlock knows of a loss that Lost does not tell")
		}
		synctest.Wait()
		mustUnlock(t, mustLock(t, l, "n"))
		mustClose(t, l)
	})
}

func TestAnUnlockThatFailedIsDoneLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := newLocker(t, m, nil)
		held := mustLock(t, l, "n")
		m.hook(hooks{beforeRelease: unreachable})
		if err := held.Unlock(t.Context()); !errors.Is(err, errUnreachable) {
			t.Errorf("Unlock: %v", err)
		}
		m.hook(hooks{})
		time.Sleep(2 * MinPoll)
		if owner := m.owner("n"); owner != "" {
			t.Errorf("%s has what was given back", owner)
		}
		if happened(held.Lost()) {
			t.Error("a grant that was given back is lost")
		}
		mustClose(t, l)
	})
}

// TestAGrantOfALockerThatHasJustClosedIsTakenBack: the answer was on its way.
func TestAGrantOfALockerThatHasJustClosedIsTakenBack(t *testing.T) {
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
			t.Errorf("%s has what nobody holds", owner)
		}
	})
}

func TestAServerInTroubleIsAskedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.hook(hooks{beforeTry: unreachable}) // and yet it says that nothing stands
		l := newLocker(t, m, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := l.Lock(ctx, "n"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock: %v", err)
		}
		if n := m.asked(); n < 40 || n > 120 {
			t.Errorf("it was asked %d times in a minute", n)
		}
		mustClose(t, l)
	})
}
