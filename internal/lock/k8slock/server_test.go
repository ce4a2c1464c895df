package k8slock

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// eventually waits for a state of the server, which sends no event.
func eventually(tb testing.TB, reached func() bool, what string) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// closing closes a Locker with the test. The server may be gone.
func closing[L lock.Locker](tb testing.TB, l L, err error) L {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.Close(ctx)
	})
	return l
}

func (s *server) stock(tb testing.TB, with Config) *StockLocker {
	tb.Helper()
	l, err := NewStock(s.config(with))
	return closing(tb, l, err)
}

func (s *server) lease(tb testing.TB, with Config) *LeaseLocker {
	tb.Helper()
	l, err := NewLease(s.config(with))
	return closing(tb, l, err)
}

// config is the test's own. Of the other its TTL and REST count.
func (s *server) config(with Config) Config {
	cfg := testConfig(s.account)
	cfg.TTL = cmp.Or(with.TTL, noticeTTL)
	if with.REST != nil {
		cfg.REST = with.REST
	}
	return cfg
}

// attempt is a Lock that runs in a goroutine.
type attempt struct {
	held lock.Held
	err  error
	done chan struct{}
}

// lockAside begins to lock name. It is given up, and waited for, with the test.
func lockAside(tb testing.TB, l lock.Locker, name string) *attempt {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a := &attempt{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.held, a.err = l.Lock(ctx, name)
	}()
	tb.Cleanup(func() {
		cancel()
		await(tb, a.done, "a Lock to return")
	})
	return a
}

func granted(tb testing.TB, a *attempt) lock.Held {
	tb.Helper()
	await(tb, a.done, "a grant")
	if a.err != nil {
		tb.Fatal(a.err)
	}
	return a.held
}

func mustLock(tb testing.TB, l lock.Locker, name string) lock.Held {
	tb.Helper()
	return granted(tb, lockAside(tb, l, name))
}

func mustUnlock(tb testing.TB, held lock.Held) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := held.Unlock(ctx); err != nil {
		tb.Fatal(err)
	}
}

// lockError is how a call fails that must not wait.
func lockError(tb testing.TB, call func(context.Context, string) (lock.Held, error)) error {
	tb.Helper()
	return lockErrorOf(tb, call, "refused")
}

func lockErrorOf(tb testing.TB, call func(context.Context, string) (lock.Held, error), name string) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	_, err := call(ctx, name)
	if errors.Is(err, context.DeadlineExceeded) {
		tb.Error("it waited in vain")
	}
	return err
}

func await(tb testing.TB, event <-chan struct{}, what string) {
	tb.Helper()
	select {
	case <-event:
	case <-time.After(patience):
		tb.Fatalf("waited %s in vain for %s", patience, what)
	}
}
