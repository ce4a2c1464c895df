package locktest

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// tryLock never waits, here or elsewhere, and leaves nothing where it failed.
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
			t.Errorf("TryLock of a held lock: %v, want %v", err, lock.ErrHeld)
		}
	}
	s.places(t, name, 1)
	MustUnlock(t, held)
	if held, err = there.TryLock(ctx, name); err != nil {
		t.Fatal(err)
	}
	MustUnlock(t, held)
	s.places(t, name, 0)
}

// order lets waiters arrive one after the other, from two processes.
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
		waiters = append(waiters, lockAside(t, locker, name, patience))
		s.places(t, name, 2+i)
	}
	for i, waiter := range waiters {
		for j, later := range waiters[i:] {
			if happened(later.done) {
				t.Fatalf("waiter %d is through while another holds", i+j)
			}
		}
		MustUnlock(t, holder)
		holder = waiter.Granted(t)
	}
	MustUnlock(t, holder)
}

// unfair shows how a lock without a common queue is unfair: whoever waits in the
// holder's own process comes after one that arrived later elsewhere. Where there
// is no queue on the server at all, see overtaken.
func (s *suite) unfair(t *testing.T, name string, here, there lock.Locker, holder lock.Held) {
	if !s.Capabilities.Queue {
		s.overtaken(t, name, here, there, holder)
		return
	}
	first := lockAside(t, here, name, patience)
	second := lockAside(t, there, name, patience)
	s.places(t, name, 2) // the holder and the second: the first is not seen
	MustUnlock(t, holder)
	held := second.Granted(t)
	if happened(first.done) {
		t.Error("grants come in order, though that is not declared")
	}
	MustUnlock(t, held)
	MustUnlock(t, first.Granted(t))
}

// overtaken: who gives a lock back and asks for it at once gets it before one
// that has waited elsewhere. Who is faster is chance; it happens sooner or later.
func (s *suite) overtaken(t *testing.T, name string, here, there lock.Locker, holder lock.Held) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		waiter := lockAside(t, there, name, patience)
		s.queued(t, name, 2)
		MustUnlock(t, holder)
		again, err := here.TryLock(t.Context(), name)
		if err == nil { // the waiter still waits
			MustUnlock(t, again)
			MustUnlock(t, waiter.Granted(t))
			return
		}
		if !errors.Is(err, lock.ErrHeld) {
			t.Fatal(err)
		}
		MustUnlock(t, waiter.Granted(t))
		holder = MustLock(t, here, name)
	}
	t.Error("grants come in order, though that is not declared")
}

// wanted tells a holder of those that wait, here and in another process.
func (s *suite) wanted(t *testing.T) {
	const name = "wanted"
	here := s.open(t)
	there := s.another(t, here)
	held := MustLock(t, here, name)
	if !s.Capabilities.Wanted {
		if held.Wanted() != nil {
			t.Error("Wanted is there, but not declared")
		}
		MustUnlock(t, held)
		return
	}
	for i, locker := range []lock.Locker{there, here, there} {
		if happened(held.Wanted()) {
			t.Fatalf("holder %d is wanted by nobody", i)
		}
		waiter := lockAside(t, locker, name, patience)
		await(t, held.Wanted(), patience, "Wanted")
		MustUnlock(t, held)
		held = waiter.Granted(t)
	}
	// One that was there before the grant counts as well.
	one := lockAside(t, here, name, patience)
	s.queued(t, name, 2)
	two := lockAside(t, there, name, patience)
	s.queued(t, name, 3)
	MustUnlock(t, held)
	held = one.Granted(t)
	await(t, held.Wanted(), patience, "Wanted")
	MustUnlock(t, held)
	MustUnlock(t, two.Granted(t))
}

// cancelled waiters are gone at once, and hold up nobody.
func (s *suite) cancelled(t *testing.T) {
	const name = "cancelled"
	here := s.open(t)
	there := s.another(t, here)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := here.Lock(over, name); !errors.Is(err, context.Canceled) {
		t.Errorf("Lock with a context that is over: %v", err)
	}
	if _, err := here.TryLock(over, name); !errors.Is(err, context.Canceled) {
		t.Errorf("TryLock with a context that is over: %v", err)
	}
	s.places(t, name, 0)

	holder := MustLock(t, here, name)
	first := lockAside(t, there, name, patience)
	s.queued(t, name, 2)
	second := lockAside(t, s.another(t, here), name, patience)
	s.queued(t, name, 3)
	if s.Capabilities.Deadline {
		punctual(t, "the return of a Lock that was cancelled", func() time.Duration {
			if happened(first.done) { // again
				first = lockAside(t, there, name, patience)
				s.queued(t, name, 3)
			}
			return first.cancelled(t)
		})
	} else {
		first.cancelled(t)
	}
	s.queued(t, name, 2)
	if happened(second.done) {
		t.Fatal("a waiter is through while another holds")
	}
	MustUnlock(t, holder)
	MustUnlock(t, second.Granted(t))
	s.places(t, name, 0)

	// Cancelled at the moment of the grant: granted or not, it must not stay.
	for range 10 {
		holder := MustLock(t, here, name)
		waiter := lockAside(t, there, name, patience)
		s.queued(t, name, 2)
		go waiter.cancel()
		MustUnlock(t, holder)
		await(t, waiter.done, patience, "Lock to return")
		if waiter.err == nil {
			MustUnlock(t, waiter.held)
		} else if !errors.Is(waiter.err, context.Canceled) {
			t.Errorf("Lock: %v", waiter.err)
		}
		s.places(t, name, 0)
	}
}

// unlock is refused to whoever is not, or no longer, the holder.
func (s *suite) unlock(t *testing.T) {
	const name = "unlock"
	here := s.open(t)
	there := s.another(t, here)
	first := MustLock(t, here, name)
	waiter := lockAside(t, there, name, patience)
	s.queued(t, name, 2)
	MustUnlock(t, first)
	second := waiter.Granted(t)
	before := s.places(t, name, 1)
	if err := unlock(first); !errors.Is(err, lock.ErrLost) {
		t.Errorf("second Unlock: %v, want %v", err, lock.ErrLost)
	}
	if after := s.places(t, name, 1); after[0] != before[0] || happened(second.Lost()) {
		t.Error("a second Unlock took the later holder's place")
	}
	MustUnlock(t, second)
}

// reentrance: an owner takes again what it has, and has it until it has given it
// back as often.
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
			t.Errorf("the owner has taken it again, though that is not declared: %v", err)
		}
		MustUnlock(t, first)
		return
	}
	again, err := here.Lock(one, name)
	if err != nil {
		t.Fatal(err)
	}
	if again.Token() != first.Token() {
		t.Errorf("token %d in the same grant as token %d", again.Token(), first.Token())
	}
	refused := func() {
		t.Helper()
		for who, try := range map[string]func() (lock.Held, error){
			"another owner":            func() (lock.Held, error) { return here.TryLock(two, name) },
			"nobody":                   func() (lock.Held, error) { return here.TryLock(ctx, name) },
			"the same owner elsewhere": func() (lock.Held, error) { return there.TryLock(one, name) },
		} {
			if _, err := try(); !errors.Is(err, lock.ErrHeld) {
				t.Errorf("TryLock of %s: %v, want %v", who, err, lock.ErrHeld)
			}
		}
	}
	refused()
	MustUnlock(t, first)
	if err := unlock(first); !errors.Is(err, lock.ErrLost) {
		t.Errorf("second Unlock of one entry: %v, want %v", err, lock.ErrLost)
	}
	refused()
	s.places(t, name, 1)
	MustUnlock(t, again)
	s.places(t, name, 0)
	next, err := there.TryLock(two, name)
	if err != nil {
		t.Fatal(err)
	}
	MustUnlock(t, next)
}

// closing frees what a Locker holds, and ends its waits.
func (s *suite) closing(t *testing.T) {
	const name, queued = "closing", "closing-queued"
	here, there := s.open(t), s.open(t)
	held := MustLock(t, here, name)
	other := MustLock(t, s.another(t, here), queued)
	waiter := lockAside(t, here, queued, patience)
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
	s.places(t, name, 0)
	if s.Capabilities.Processes {
		s.places(t, queued, 1)
		MustUnlock(t, other)
	}
	MustUnlock(t, MustLock(t, there, name))
}
