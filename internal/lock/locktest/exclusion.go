package locktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
)

// contention is work that only one goroutine of all processes may do at a time.
type contention struct {
	Name       string `json:"name"`
	Goroutines int    `json:"goroutines"`
	Rounds     int    `json:"rounds"` // of each
	// Dir is where the work is: a file that stands while somebody is at it, a
	// counter that loses an update when two are, and a ledger of the tokens.
	Dir string `json:"dir"`
}

// run takes the lock again and again, and works under it.
func (c *contention) run(ctx context.Context, locker lock.Locker) error {
	group, ctx := errgroup.WithContext(ctx)
	for range c.Goroutines {
		group.Go(func() error {
			for range c.Rounds {
				held, err := locker.Lock(ctx, c.Name)
				if err != nil {
					return err
				}
				if err := errors.Join(c.work(held.Token()), held.Unlock(ctx)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (c *contention) work(token lock.Token) error {
	inside := filepath.Join(c.Dir, "inside")
	f, err := os.OpenFile(inside, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("two are inside: %w", err)
	}
	f.Close()
	counter := filepath.Join(c.Dir, "counter")
	n, _ := os.ReadFile(counter) // none yet is zero
	count, _ := strconv.Atoi(string(n))
	if err := os.WriteFile(counter, []byte(strconv.Itoa(count+1)), 0o600); err != nil {
		return err
	}
	ledger, err := os.OpenFile(filepath.Join(c.Dir, "ledger"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(ledger, token)
	return errors.Join(err, ledger.Close(), os.Remove(inside))
}

// check compares the outcome with what so many workers must have done.
func (c *contention) check(t *testing.T, workers int, tokens bool) {
	t.Helper()
	want := workers * c.Goroutines * c.Rounds
	n, err := os.ReadFile(filepath.Join(c.Dir, "counter"))
	if err != nil {
		t.Fatal(err)
	}
	if string(n) != strconv.Itoa(want) {
		t.Errorf("the counter is %s after %d grants: updates were lost", n, want)
	}
	ledger, err := os.ReadFile(filepath.Join(c.Dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(ledger))
	if len(lines) != want {
		t.Errorf("the ledger has %d entries after %d grants", len(lines), want)
	}
	last := uint64(0)
	for i, line := range lines {
		token, err := strconv.ParseUint(line, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if tokens && token <= last {
			t.Errorf("grant %d has token %d after %d", i, token, last)
		}
		if !tokens && token != 0 {
			t.Errorf("grant %d has token %d, but none is declared", i, token)
		}
		last = token
	}
}

// exclusion lets two goroutines on each of two processes do work that only one
// may do at a time.
func (s *suite) exclusion(t *testing.T) {
	c := contention{Name: "exclusion", Goroutines: 2, Rounds: 12, Dir: t.TempDir()}
	if !s.Capabilities.Processes {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c.Goroutines = 4
		if err := c.run(ctx, s.open(t)); err != nil {
			t.Error(err)
		}
		c.check(t, 1, s.Capabilities.Token)
		// And what it cannot do: two processes hold the lock at the same time.
		one, two := MustLock(t, s.spawn(t), c.Name), MustLock(t, s.spawn(t), c.Name)
		MustUnlock(t, one)
		MustUnlock(t, two)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	var group errgroup.Group
	for range 2 {
		process := s.spawn(t)
		group.Go(func() error {
			_, err := process.call(ctx, request{Op: "contend", Contend: &c})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	c.check(t, 2, s.Capabilities.Token)
	s.places(t, c.Name, 0)
}

// tokens takes a lock in turns in two processes, gives it back, and loses it.
func (s *suite) tokens(t *testing.T) {
	const name = "tokens"
	here, brief := s.openLong(t), s.open(t)
	if !s.Capabilities.Token {
		held := MustLock(t, here, name)
		if held.Token() != 0 {
			t.Errorf("token %d, but none is declared", held.Token())
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
		if i == 2 { // a new lease begins with a new token, too
			s.server.Revoke(t, s.places(t, name, 1)[0])
			await(t, held.Lost(), s.TTL+lateness, "the loss")
			continue
		}
		MustUnlock(t, held)
	}
}

// badNames are refused before anything reaches a server.
func (s *suite) badNames(t *testing.T) {
	locker := s.open(t)
	for _, name := range []string{"", "a/b", "a\x00", "/", strings.Repeat("n", lock.MaxName+1)} {
		if held, err := locker.Lock(t.Context(), name); err == nil {
			t.Errorf("Lock(%q) was granted", name)
			MustUnlock(t, held)
		}
		if held, err := locker.TryLock(t.Context(), name); err == nil || errors.Is(err, lock.ErrHeld) {
			t.Errorf("TryLock(%q): %v", name, err)
			if held != nil {
				MustUnlock(t, held)
			}
		}
	}
	// The longest, and names that are each other's beginnings.
	var all []lock.Held
	for _, name := range []string{strings.Repeat("n", lock.MaxName), "SKU-1", "SKU", "SKU-", "ü x"} {
		all = append(all, MustLock(t, locker, name))
	}
	for _, held := range all {
		MustUnlock(t, held)
	}
}
