package lease

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{
		{TTL: testTTL},
		{Store: newMemory()},
		{Store: newMemory(), TTL: time.Second - 1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) succeeded, want an error", cfg)
		}
	}
}

func TestARefusalNamesTheHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		here, there := newLocker(t, m, nil), newLocker(t, m, nil)
		held := locktest.MustLock(t, here, "n")
		_, err := there.TryLock(t.Context(), "n")
		var refusal *lock.HeldError
		if !errors.Is(err, lock.ErrHeld) || !errors.As(err, &refusal) || refusal.Holder != "r@h:1" {
			t.Errorf("TryLock: %v", err)
		}
		locktest.MustUnlock(t, held)
		mustClose(t, here)
		mustClose(t, there)
	})
}

func TestParseOwnerReadsHolderReplicaAndSince(t *testing.T) {
	began := time.Now().Truncate(time.Millisecond)
	info := ParseOwner(newOwner("r@h:1"))
	if info.Replica != "r" || info.Holder != "r@h:1" || info.Since.Before(began) || info.Since.After(time.Now().Add(time.Second)) {
		t.Errorf("ParseOwner returned %+v, want r, r@h:1 and a time after %s", info, began)
	}
	for _, foreign := range []string{"", "another format", "another@format/1"} {
		if info := ParseOwner(foreign); info.Holder != foreign || info.Replica != "" || !info.Since.IsZero() {
			t.Errorf("ParseOwner(%q) returned %+v, want it unchanged as the Holder", foreign, info)
		}
	}
}

func TestWaitersPollNoFasterThanTheMinimum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		here, there := newLocker(t, m, nil), newLocker(t, m, nil)
		held := locktest.MustLock(t, here, "n")
		granted := make(chan lock.Held)
		for range 3 { // waiters of one process, of which one polls
			go func() { granted <- locktest.MustLock(t, there, "n") }()
		}
		const wait = 10 * time.Second
		before := m.asked()
		time.Sleep(wait)
		if n := m.asked() - before; n > int(wait/poll) || n < int(wait/(2*poll)) {
			t.Errorf("%d polls in %s, want %d to %d", n, wait, int(wait/(2*poll)), int(wait/poll))
		}
		locktest.MustUnlock(t, held)
		for range 3 {
			locktest.MustUnlock(t, <-granted)
		}
		mustClose(t, here)
		mustClose(t, there)
	})
}

func TestLockRetriesUntilTheServerIsBack(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		failures := 0
		m.hook(hooks{beforeTry: func(context.Context) error {
			if failures++; failures < 5 {
				return errUnreachable
			}
			return nil
		}})
		locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
		// If the server does not come back, the error at the deadline says why.
		m.hook(hooks{beforeTry: unreachable, beforeRelease: unreachable})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began, asked := time.Now(), m.asked()
		_, err := l.Lock(ctx, "n")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "192.0.2.1") {
			t.Errorf("Lock: %v", err)
		}
		if took := time.Since(began); took != time.Minute {
			t.Errorf("Lock took %s", took)
		}
		if n := m.asked() - asked; n > 60 {
			t.Errorf("%d requests to a dead server in a minute, want at most 60", n)
		}
		if _, err := l.TryLock(t.Context(), "n2"); !errors.Is(err, errUnreachable) {
			t.Errorf("TryLock: %v", err)
		}
		m.hook(hooks{})
		locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
	})
}

func TestLockFailsAtOnceOnAFinalError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.hook(hooks{beforeTry: unreachable})
		l := newLocker(t, m, func(cfg *Config) {
			cfg.Final = func(err error) bool { return errors.Is(err, errUnreachable) }
		})
		if _, err := l.Lock(t.Context(), "n"); !errors.Is(err, errUnreachable) || m.asked() != 1 {
			t.Errorf("Lock after %d tries: %v, want %v after one", m.asked(), err, errUnreachable)
		}
		mustClose(t, l)
	})
}

// TestAGrantWithALostAnswerIsReleased: the caller has already failed.
func TestAGrantWithALostAnswerIsReleased(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		m.hook(hooks{afterTry: unreachable}) // applied, but the answer is lost
		if _, err := l.TryLock(t.Context(), "n"); !errors.Is(err, errUnreachable) {
			t.Errorf("TryLock: %v", err)
		}
		synctest.Wait()
		if owner := m.owner("n"); owner != "" {
			t.Errorf("%s still has the name on the server, but no caller holds it", owner)
		}
	})
}

// TestALateGrantIsReleased: the server applies the request after the first release
// of it found nothing.
func TestALateGrantIsReleased(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		var lateOwner string
		m.hook(hooks{beforeTry: unreachable})
		l.cfg.Store = spy{m, func(owner string) { lateOwner = owner }}
		if _, err := l.TryLock(t.Context(), "n"); !errors.Is(err, errUnreachable) {
			t.Errorf("TryLock: %v", err)
		}
		time.Sleep(testTTL / 2)
		m.mu.Lock()
		m.owners["n"], m.ends["n"] = lateOwner, time.Now().Add(time.Hour)
		m.mu.Unlock()
		time.Sleep(2 * testTTL)
		if owner := m.owner("n"); owner != "" {
			t.Errorf("%s still has the name on the server, but no caller holds it", owner)
		}
	})
}

// spy reports the owner of each Try.
type spy struct {
	*memory
	tell func(owner string)
}

func (s spy) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	s.tell(owner)
	return s.memory.Try(ctx, name, owner)
}

// TestCallersDoNotWaitForTheStore: its calls hang and ignore cancellation.
func TestCallersDoNotWaitForTheStore(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		held := locktest.MustLock(t, l, "held")
		deaf := func(context.Context) error { time.Sleep(testTTL / renewals); return errUnreachable }
		m.hook(hooks{beforeTry: deaf, beforeRelease: deaf})
		began := time.Now()
		for what, call := range map[string]func(context.Context) error{
			"Lock":    func(ctx context.Context) error { _, err := l.Lock(ctx, "n"); return err },
			"TryLock": func(ctx context.Context) error { _, err := l.TryLock(ctx, "m"); return err },
			"Unlock":  held.Unlock,
		} {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			if err := call(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if took := time.Since(began); took != 3*time.Millisecond {
			t.Errorf("the calls took %s, want 3ms", took)
		}
		m.hook(hooks{})
		time.Sleep(testTTL)
		for _, name := range []string{"held", "n", "m"} {
			if owner := m.owner(name); owner != "" {
				t.Errorf("%s still has the name on the server, but no caller holds it", owner)
			}
		}
	})
}

func TestALossLetsTheNextWaiterIn(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		first := locktest.MustLock(t, l, "n")
		m.end("n")
		second := locktest.MustLock(t, l, "n") // before the first is unlocked
		if !happened(first.Lost()) {
			t.Error("Lost of the first grant is open")
		}
		for range 2 {
			if err := first.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
				t.Errorf("Unlock after the loss: %v", err)
			}
		}
		synctest.Wait()
		if happened(second.Lost()) || m.owner("n") == "" {
			t.Error("Unlock of the first grant ended the second")
		}
		locktest.MustUnlock(t, second)
		if err := second.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("second Unlock: %v", err)
		}
	})
}

// TestUnlockReportsALossOnTheServer that no renewal has noticed yet.
func TestUnlockReportsALossOnTheServer(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		held := locktest.MustLock(t, l, "n")
		m.end("n")
		if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("Unlock: %v", err)
		}
		locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
	})
}

// TestTheHolderKeepsTheMargin: after a local loss, the name stays taken on the
// server until its lease ends.
func TestTheHolderKeepsTheMargin(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		began := time.Now()
		held := locktest.MustLock(t, l, "n")
		m.hook(hooks{beforeRenew: unreachable})
		next := locktest.MustLock(t, l, "n")
		if took := time.Since(began); took < testTTL {
			t.Errorf("the next grant came after %s, want at least %s", took, testTTL)
		}
		if !happened(held.Lost()) {
			t.Error("Lost of the first grant is open")
		}
		locktest.MustUnlock(t, next)
	})
}

func TestAnAnswerAfterTheTTLIsNotAGrant(t *testing.T) {
	withLocker(t, func(t *testing.T, m *memory, l *Locker) {
		m.hook(hooks{afterTry: func(context.Context) error { time.Sleep(testTTL); return nil }})
		if _, err := l.TryLock(t.Context(), "n"); !errors.Is(err, lock.ErrLost) {
			t.Errorf("TryLock: %v", err)
		}
		m.hook(hooks{})
		locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
	})
}

func TestCloseDuringLockLeavesNothingOnTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := newLocker(t, m, nil)
		held := locktest.MustLock(t, l, "held")
		m.hook(hooks{afterTry: func(context.Context) error { time.Sleep(testTTL / 10); return nil }})
		failed := make(chan error)
		go func() { _, err := l.Lock(t.Context(), "n"); failed <- err }()
		go func() { _, err := l.Lock(t.Context(), "n"); failed <- err }() // at the gate
		synctest.Wait()
		go mustClose(t, l)
		for range 2 {
			if err := <-failed; !errors.Is(err, lock.ErrClosed) {
				t.Errorf("Lock: %v", err)
			}
		}
		mustClose(t, l) // waits for the other Close
		for _, name := range []string{"held", "n"} {
			if owner := m.owner(name); owner != "" {
				t.Errorf("%s still belongs to %s after Close", name, owner)
			}
		}
		if !happened(held.Lost()) {
			t.Error("Lost is open after Close")
		}
		if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("Unlock after Close: %v", err)
		}
		if _, err := l.TryLock(t.Context(), "n"); !errors.Is(err, lock.ErrClosed) {
			t.Errorf("TryLock after Close: %v", err)
		}
	})
}

func TestCloseIsBoundedAndNamesWhatIsNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		l := newLocker(t, m, nil)
		for _, name := range []string{"a", "b", "c"} {
			locktest.MustLock(t, l, name)
		}
		m.hook(hooks{beforeRelease: hang})
		const within = 100 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		began := time.Now()
		err := l.Close(ctx)
		if took := time.Since(began); took != within {
			t.Errorf("Close took %s, want %s", took, within)
		}
		for _, name := range []string{"a", "b", "c"} {
			if err == nil || !strings.Contains(err.Error(), "unlock "+name) {
				t.Errorf("Close: %v; want it to name %s", err, name)
			}
		}
	})
}
