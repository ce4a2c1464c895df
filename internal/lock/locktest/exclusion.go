package locktest

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
)

// exclusion lets goroutines of two processes take the lock in turn. Without exclusion of
// other processes, all goroutines use one Locker.
func (s *suite) exclusion(t *testing.T) {
	const name, goroutines, rounds = "exclusion", 4, 12
	lockers := []lock.Locker{s.open(t)}
	if s.Capabilities.Processes {
		lockers = []lock.Locker{s.spawn(t), s.spawn(t)}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	var holders atomic.Int32
	var tokens []lock.Token // in order; only the holder appends
	var group errgroup.Group
	for i := range goroutines {
		group.Go(func() error {
			for range rounds {
				held, err := lockers[i%len(lockers)].Lock(ctx, name)
				if err != nil {
					return err
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("the lock has %d holders", n)
				}
				tokens = append(tokens, held.Token())
				time.Sleep(time.Millisecond) // long enough to notice a second holder
				holders.Add(-1)
				if err := held.Unlock(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(tokens) != goroutines*rounds {
		t.Errorf("%d of %d grants were recorded: two goroutines held the lock", len(tokens), goroutines*rounds)
	}
	for i, token := range tokens {
		switch {
		case !s.Capabilities.Token && token != 0:
			t.Errorf("grant %d has token %d, but Token is not declared", i, token)
		case s.Capabilities.Token && i > 0 && token <= tokens[i-1]:
			t.Errorf("grant %d has token %d after %d", i, token, tokens[i-1])
		}
	}
	s.entries(t, name, 0)
	if !s.Capabilities.Processes { // two processes can hold the lock at the same time
		one, two := MustLock(t, s.spawn(t), name), MustLock(t, s.spawn(t), name)
		MustUnlock(t, one)
		MustUnlock(t, two)
	}
}

// tokens takes a lock in two processes in turn, and loses it once.
func (s *suite) tokens(t *testing.T) {
	const name = "tokens"
	here, brief := s.openLong(t), s.open(t)
	if !s.Capabilities.Token {
		held := MustLock(t, here, name)
		if held.Token() != 0 {
			t.Errorf("the token is %d, but Token is not declared", held.Token())
		}
		MustUnlock(t, held)
		return
	}
	there := s.spawn(t)
	last := lock.Token(0)
	for i, locker := range []lock.Locker{here, there, brief, there, here} {
		held := MustLock(t, locker, name)
		if held.Token() <= last {
			t.Errorf("grant %d has token %d after %d", i, held.Token(), last)
		}
		last = held.Token()
		if i == 2 { // the token must also rise with a new lease
			s.server.Revoke(t, s.entries(t, name, 1)[0])
			await(t, held.Lost(), s.later(), "the loss")
			continue
		}
		UnlockAnyway(t, held) // one of the processes has a short lease
	}
}

// badNames are refused before any request to a server.
func (s *suite) badNames(t *testing.T) {
	locker := s.open(t)
	for _, name := range []string{"", "a/b", "a\x00", "/", strings.Repeat("n", lock.MaxName+1)} {
		if held, err := locker.Lock(t.Context(), name); err == nil {
			t.Errorf("Lock(%q) succeeded", name)
			MustUnlock(t, held)
		}
		if held, err := locker.TryLock(t.Context(), name); err == nil || errors.Is(err, lock.ErrHeld) {
			t.Errorf("TryLock(%q): %v", name, err)
			if held != nil {
				MustUnlock(t, held)
			}
		}
	}
	// The longest name, and names that are prefixes of each other.
	var all []lock.Held
	for _, name := range []string{strings.Repeat("n", lock.MaxName), "SKU-1", "SKU", "SKU-", "ü x"} {
		all = append(all, MustLock(t, locker, name))
	}
	for _, held := range all {
		MustUnlock(t, held)
	}
}
