package locktest

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

// callPatience bounds the calls and waits of the exported functions. It is long
// because a busy machine under the race detector is slow.
const callPatience = time.Minute

// MustLock locks name, and fails the test if it cannot.
func MustLock(tb testing.TB, locker lock.Locker, name string) lock.Held {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	held, err := locker.Lock(ctx, name)
	if err != nil {
		tb.Fatalf("Lock: %v", err)
	}
	return held
}

// MustUnlock unlocks held, and fails the test if it cannot.
func MustUnlock(tb testing.TB, held lock.Held) {
	tb.Helper()
	if err := unlock(held); err != nil {
		tb.Fatalf("Unlock: %v", err)
	}
}

// MustWork locks and unlocks name. A busy machine may end a short lease before the Unlock, so
// there are three tries.
func MustWork(tb testing.TB, locker lock.Locker, name string) {
	tb.Helper()
	for range tries {
		err := unlock(MustLock(tb, locker, name))
		if err == nil {
			return
		}
		tb.Log("Unlock:", err)
	}
	tb.Errorf("Unlock failed each of %d times", tries)
}

func unlock(held lock.Held) error {
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	return held.Unlock(ctx)
}

// Opened returns a Locker that was just opened, or fails the test. The end of the test
// closes the Locker, whose server may be down by then, and then calls closeClients.
func Opened[L lock.Locker](tb testing.TB, locker L, err error, closeClients ...func() error) L {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = locker.Close(ctx)
		for _, closeClient := range closeClients {
			if err := closeClient(); err != nil {
				tb.Log("close the client:", err)
			}
		}
	})
	return locker
}

// Attempt is a Lock that runs in a goroutine.
type Attempt struct {
	cancel context.CancelFunc
	done   chan struct{}
	held   lock.Held
	err    error
	asked  time.Time // before its context began
	at     time.Time // when it returned
}

// LockAside starts to lock name in a goroutine. The end of the test cancels it and
// waits for it.
func LockAside(tb testing.TB, locker lock.Locker, name string) *Attempt {
	tb.Helper()
	return lockAside(tb, locker, name, callPatience)
}

func lockAside(tb testing.TB, locker lock.Locker, name string, timeout time.Duration) *Attempt {
	tb.Helper()
	asked := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	a := &Attempt{cancel: cancel, done: make(chan struct{}), asked: asked}
	go func() {
		defer close(a.done)
		a.held, a.err = locker.Lock(ctx, name)
		a.at = time.Now()
	}()
	tb.Cleanup(func() {
		cancel()
		await(tb, a.done, callPatience, "Lock to return")
	})
	return a
}

// Done is closed when Lock has returned.
func (a *Attempt) Done() <-chan struct{} { return a.done }

// Err is the error that Lock has returned. It must be called after Done is closed.
func (a *Attempt) Err() error { return a.err }

// Granted waits for the grant, and fails the test if Lock returns an error.
func (a *Attempt) Granted(tb testing.TB) lock.Held {
	tb.Helper()
	await(tb, a.done, 2*callPatience, "a grant")
	if a.err != nil {
		tb.Fatalf("Lock: %v", a.err)
	}
	return a.held
}

// failed waits for the error, which must be want.
func (a *Attempt) failed(t *testing.T, want error) {
	t.Helper()
	await(t, a.done, patience, "Lock to return")
	if !errors.Is(a.err, want) {
		t.Fatalf("Lock: %v, want %v", a.err, want)
	}
}

// cancelled cancels the call, and returns how long it took to return.
func (a *Attempt) cancelled(t *testing.T) time.Duration {
	t.Helper()
	asked := time.Now()
	a.cancel()
	a.failed(t, context.Canceled)
	return a.at.Sub(asked)
}
