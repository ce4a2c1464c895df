package locktest

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// tryLock checks that TryLock never waits, and leaves no entry when it fails.
func (s *suite) tryLock(t *testing.T) {
	const name = "try"
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	here := s.open(t)
	there := s.another(t, here)
	held, err := here.TryLock(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, locker := range []lock.Locker{here, there} {
		if _, err := locker.TryLock(ctx, name); !errors.Is(err, lock.ErrHeld) {
			t.Errorf("TryLock while the lock is held: %v, want %v", err, lock.ErrHeld)
		}
	}
	s.entries(t, name, 1)
	MustUnlock(t, held)
	if held, err = there.TryLock(ctx, name); err != nil {
		t.Fatal(err)
	}
	MustUnlock(t, held)
	s.entries(t, name, 0)
}

// order adds waiters of two Lockers one after the other.
func (s *suite) order(t *testing.T) {
	const name = "order"
	here := s.open(t)
	there := s.another(t, here)
	holder := MustLock(t, here, name)
	if !s.Capabilities.Fair {
		s.unfair(t, name, here, there, holder)
		return
	}
	var waiters []*Attempt
	for i, locker := range []lock.Locker{there, here, here, there, here} {
		waiters = append(waiters, LockAside(t, locker, name))
		s.entries(t, name, 2+i)
	}
	for i, waiter := range waiters {
		for j, later := range waiters[i:] {
			if happened(later.done) {
				t.Fatalf("Lock of waiter %d returned while another holds the lock", i+j)
			}
		}
		MustUnlock(t, holder)
		holder = waiter.Granted(t)
	}
	MustUnlock(t, holder)
}

// unfair checks that a lock with a gate is not fair: a waiter in the holder's process is
// granted the lock after a later one of another process.
func (s *suite) unfair(t *testing.T, name string, here, there lock.Locker, holder lock.Held) {
	first, second := LockAside(t, here, name), LockAside(t, there, name)
	s.entries(t, name, 2) // the holder and the second waiter: the first is behind the gate
	MustUnlock(t, holder)
	held := second.Granted(t)
	if happened(first.done) {
		t.Error("grants were made in order, but Fair is not declared")
	}
	MustUnlock(t, held)
	MustUnlock(t, first.Granted(t))
}

// contended checks that a holder is told of waiters of both Lockers.
func (s *suite) contended(t *testing.T) {
	const name = "contended"
	here := s.open(t)
	there := s.another(t, here)
	held := MustLock(t, here, name)
	if !s.Capabilities.Contended {
		if held.Contended() != nil {
			t.Error("Contended is not nil, but not declared")
		}
		MustUnlock(t, held)
		return
	}
	for i, locker := range []lock.Locker{there, here, there} {
		if happened(held.Contended()) {
			t.Fatalf("Contended of holder %d is closed without a waiter", i)
		}
		waiter := LockAside(t, locker, name)
		await(t, held.Contended(), patience, "Contended")
		MustUnlock(t, held)
		held = waiter.Granted(t)
	}
	// A waiter that came before the grant counts too.
	one := LockAside(t, here, name)
	s.queued(t, name, 2)
	two := LockAside(t, there, name)
	s.queued(t, name, 3)
	MustUnlock(t, held)
	held = one.Granted(t)
	await(t, held.Contended(), patience, "Contended")
	MustUnlock(t, held)
	MustUnlock(t, two.Granted(t))
}

// cancelled checks that a cancelled waiter leaves the queue at once.
func (s *suite) cancelled(t *testing.T) {
	const name = "cancelled"
	here := s.open(t)
	there := s.another(t, here)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := here.Lock(ended, name); !errors.Is(err, context.Canceled) {
		t.Errorf("Lock with a cancelled context: %v", err)
	}
	if _, err := here.TryLock(ended, name); !errors.Is(err, context.Canceled) {
		t.Errorf("TryLock with a cancelled context: %v", err)
	}
	s.entries(t, name, 0)

	holder := MustLock(t, here, name)
	first := LockAside(t, there, name)
	s.queued(t, name, 2)
	second := LockAside(t, s.another(t, here), name)
	s.queued(t, name, 3)
	if s.Capabilities.Deadline {
		punctual(t, "a cancelled Lock", func() time.Duration {
			if happened(first.done) { // a repetition
				first = LockAside(t, there, name)
				s.queued(t, name, 3)
			}
			return first.cancelled(t)
		})
	} else {
		first.cancelled(t)
	}
	s.queued(t, name, 2)
	if happened(second.done) {
		t.Fatal("Lock returned while another holds the lock")
	}
	MustUnlock(t, holder)
	MustUnlock(t, second.Granted(t))
	s.entries(t, name, 0)

	// A Lock that is cancelled during its grant must leave no entry, granted or not.
	for range 10 {
		holder := MustLock(t, here, name)
		waiter := LockAside(t, there, name)
		s.queued(t, name, 2)
		go waiter.cancel()
		MustUnlock(t, holder)
		await(t, waiter.done, patience, "Lock to return")
		if waiter.err == nil {
			MustUnlock(t, waiter.held)
		} else if !errors.Is(waiter.err, context.Canceled) {
			t.Errorf("Lock: %v", waiter.err)
		}
		s.entries(t, name, 0)
	}
}

// unlock checks that a second Unlock does not end a later grant.
func (s *suite) unlock(t *testing.T) {
	const name = "unlock"
	here := s.open(t)
	there := s.another(t, here)
	first := MustLock(t, here, name)
	waiter := LockAside(t, there, name)
	s.queued(t, name, 2)
	MustUnlock(t, first)
	second := waiter.Granted(t)
	before := s.entries(t, name, 1)
	if err := unlock(first); !errors.Is(err, lock.ErrLost) {
		t.Errorf("second Unlock: %v, want %v", err, lock.ErrLost)
	}
	if after := s.entries(t, name, 1); after[0] != before[0] || happened(second.Lost()) {
		t.Error("a second Unlock ended the later grant")
	}
	MustUnlock(t, second)
}

// reentrance checks that an owner may lock again, and that the last Unlock ends the grant.
func (s *suite) reentrance(t *testing.T) {
	const name = "reentrance"
	here := s.open(t)
	there := s.another(t, here)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	one, two := lock.WithOwner(ctx, "one"), lock.WithOwner(ctx, "two")
	first, err := here.Lock(one, name)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Capabilities.Reentrant {
		if _, err := here.TryLock(one, name); !errors.Is(err, lock.ErrHeld) {
			t.Errorf("the owner locked again, but Reentrant is not declared: %v", err)
		}
		MustUnlock(t, first)
		return
	}
	again, err := here.Lock(one, name)
	if err != nil {
		t.Fatal(err)
	}
	if again.Token() != first.Token() {
		t.Errorf("the second Lock has token %d, the first %d", again.Token(), first.Token())
	}
	refused := func() {
		t.Helper()
		for who, try := range map[string]func() (lock.Held, error){
			"another owner":                    func() (lock.Held, error) { return here.TryLock(two, name) },
			"no owner":                         func() (lock.Held, error) { return here.TryLock(ctx, name) },
			"the same owner in another Locker": func() (lock.Held, error) { return there.TryLock(one, name) },
		} {
			if _, err := try(); !errors.Is(err, lock.ErrHeld) {
				t.Errorf("TryLock by %s: %v, want %v", who, err, lock.ErrHeld)
			}
		}
	}
	refused()
	MustUnlock(t, first)
	if err := unlock(first); !errors.Is(err, lock.ErrLost) {
		t.Errorf("second Unlock of the first Lock: %v, want %v", err, lock.ErrLost)
	}
	refused()
	s.entries(t, name, 1)
	MustUnlock(t, again)
	s.entries(t, name, 0)
	next, err := there.TryLock(two, name)
	if err != nil {
		t.Fatal(err)
	}
	MustUnlock(t, next)
}

// closing checks that Close releases the locks of a Locker and ends its waiters.
func (s *suite) closing(t *testing.T) {
	const name, queued = "closing", "closing-queued"
	here, there := s.open(t), s.open(t)
	held := MustLock(t, here, name)
	other := MustLock(t, s.another(t, here), queued)
	waiter := LockAside(t, here, queued)
	s.queued(t, queued, 2)
	if err := here.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	waiter.failed(t, lock.ErrClosed)
	await(t, held.Lost(), patience, "Lost after Close")
	if err := unlock(held); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after Close: %v, want %v", err, lock.ErrLost)
	}
	if _, err := here.Lock(t.Context(), name); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("Lock after Close: %v, want %v", err, lock.ErrClosed)
	}
	if _, err := here.TryLock(t.Context(), name); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("TryLock after Close: %v, want %v", err, lock.ErrClosed)
	}
	if err := here.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	s.entries(t, name, 0)
	if s.Capabilities.Processes {
		s.entries(t, queued, 1)
		MustUnlock(t, other)
	}
	MustUnlock(t, MustLock(t, there, name))
}
