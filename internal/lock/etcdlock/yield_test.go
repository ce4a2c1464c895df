package etcdlock

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// yielding is a Yield that runs aside.
type yielding struct {
	done chan struct{}
	held lock.Held
	err  error
}

func yield(ctx context.Context, t *testing.T, held lock.Held) *yielding {
	t.Helper()
	line, ok := held.(lock.InLine)
	if !ok {
		t.Fatal("the grant is not in line")
	}
	y := &yielding{done: make(chan struct{})}
	go func() {
		defer close(y.done)
		y.held, y.err = line.Yield(ctx)
	}()
	return y
}

func (y *yielding) wait(t *testing.T) {
	t.Helper()
	select {
	case <-y.done:
	case <-time.After(patience):
		t.Fatal("Yield does not return")
	}
}

func TestYieldGoesToTheEndOfTheLine(t *testing.T) {
	s := start(t, 1)
	here, there := s.newLocker(t), s.newLocker(t)
	const name = "n"
	first := mustLock(t, here, name)
	if next := first.(lock.InLine).Next(); next != 0 {
		t.Errorf("the next token is %d while nobody waits", next)
	}
	waited := make(chan lock.Held, 1)
	go func() {
		held, err := there.Lock(t.Context(), name)
		if err != nil {
			t.Error(err)
		}
		waited <- held
	}()
	<-first.Wanted()
	foretold := first.(lock.InLine).Next()

	y := yield(t.Context(), t, first)
	second := <-waited
	if second.Token() != foretold {
		t.Errorf("the waiter has token %d, foretold was %d", second.Token(), foretold)
	}
	<-second.Wanted() // by the one that yielded
	if places := s.Places(t, name); len(places) != 2 {
		t.Errorf("places %q, want the holder's and that of the one that yielded", places)
	}
	if err := first.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock of a grant that was yielded: %v, want %v", err, lock.ErrLost)
	}
	select {
	case <-y.done:
		t.Fatal("Yield came back while another holds")
	default:
	}
	mustUnlock(t, second)
	y.wait(t)
	if y.err != nil {
		t.Fatal(y.err)
	}
	if y.held.Token() <= second.Token() {
		t.Errorf("token %d after %d", y.held.Token(), second.Token())
	}
	mustUnlock(t, y.held)
	if places := s.Places(t, name); len(places) != 0 {
		t.Errorf("places %q are left", places)
	}
}

func TestYieldOfALostGrantQueuesNowhere(t *testing.T) {
	s := start(t, 1)
	here := s.newLocker(t)
	held := mustLock(t, here, "n")
	s.Remove(t, s.Places(t, "n")[0])
	y := yield(t.Context(), t, held)
	y.wait(t)
	if !errors.Is(y.err, lock.ErrLost) {
		t.Errorf("got %v, want %v", y.err, lock.ErrLost)
	}
	if places := s.Places(t, "n"); len(places) != 0 {
		t.Errorf("places %q are left", places)
	}
}

func TestACancelledYieldLeavesNothingBehind(t *testing.T) {
	s := start(t, 1)
	here, there := s.newLocker(t), s.newLocker(t)
	for _, late := range []bool{false, true} { // before and after etcd has answered
		first := mustLock(t, here, "n")
		waited := make(chan lock.Held, 1)
		go func() {
			held, err := there.Lock(t.Context(), "n")
			if err != nil {
				t.Error(err)
			}
			waited <- held
		}()
		<-first.Wanted()
		ctx, cancel := context.WithCancel(t.Context())
		y := yield(ctx, t, first)
		second := lock.Held(nil)
		if late {
			second = <-waited
			<-second.Wanted()
		}
		cancel()
		y.wait(t)
		if !errors.Is(y.err, context.Canceled) {
			t.Errorf("got %v, want %v", y.err, context.Canceled)
		}
		if !late {
			second = <-waited
		}
		eventually(t, func() bool { return len(s.Places(t, "n")) == 1 }, "the yielding one's place to go")
		mustUnlock(t, second)
	}
}
