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
	Name               string
	Goroutines, Rounds int // Rounds is for each goroutine
	// Dir has a file that exists while one of them works, a counter that loses an update
	// if two work at the same time, and a ledger of the tokens.
	Dir string
}

// run takes the lock and works under it, repeatedly.
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
		return fmt.Errorf("two hold the lock: %w", err)
	}
	f.Close()
	counter := filepath.Join(c.Dir, "counter")
	n, _ := os.ReadFile(counter) // a missing file counts as zero
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

// check compares the files with the number of grants.
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
			t.Errorf("grant %d has token %d, but Token is not declared", i, token)
		}
		last = token
	}
}

// exclusion runs a contention of two processes with two goroutines each.
func (s *suite) exclusion(t *testing.T) {
	c := contention{Name: "exclusion", Goroutines: 2, Rounds: 12, Dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	if !s.Capabilities.Processes {
		c.Goroutines = 4
		if err := c.run(ctx, s.open(t)); err != nil {
			t.Error(err)
		}
		c.check(t, 1, s.Capabilities.Token)
		// Two processes can hold the lock at the same time.
		one, two := MustLock(t, s.spawn(t), c.Name), MustLock(t, s.spawn(t), c.Name)
		MustUnlock(t, one)
		MustUnlock(t, two)
		return
	}
	var group errgroup.Group
	for range 2 {
		process := s.spawn(t)
		group.Go(func() error {
			_, err := process.call(ctx, "Contend", call{Contention: c})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	c.check(t, 2, s.Capabilities.Token)
	s.entries(t, c.Name, 0)
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
		MustUnlock(t, held)
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
