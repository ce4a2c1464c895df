package locktest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
)

// HandOvers measures hand-overs of one lock between two Lockers, from just before Unlock
// until the other's Lock has returned, and reports the median. Before each Unlock it calls
// queued, which returns when the other Locker's request has reached the server.
func HandOvers(b *testing.B, name string, lockers [2]lock.Locker, queued func(held lock.Held)) {
	b.Helper()
	held := MustLock(b, lockers[0], name)
	var all []time.Duration
	for i := 1; b.Loop(); i++ {
		waiter := LockAside(b, lockers[i%2], name)
		queued(held)
		began := time.Now()
		MustUnlock(b, held)
		held = waiter.Granted(b)
		all = append(all, waiter.at.Sub(began))
	}
	MustUnlock(b, held)
	ReportMedian(b, all, "p50-ms")
}

// ReportMedian reports the median of durations as a metric in milliseconds.
func ReportMedian(b *testing.B, all []time.Duration, unit string) {
	b.Helper()
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2])/float64(time.Millisecond), unit)
}

// ManyNames makes two Lockers contend for a thousand names at the same time. The
// back-end must declare Contended.
func ManyNames(t *testing.T, here, there lock.Locker) {
	t.Helper()
	const names = 1000
	ctx, cancel := context.WithTimeout(t.Context(), 2*callPatience)
	defer cancel()
	began := time.Now()
	var group errgroup.Group
	for i := range names {
		group.Go(func() error {
			first, err := here.Lock(ctx, strconv.Itoa(i))
			if err != nil {
				return err
			}
			next := make(chan error, 1)
			go func() {
				second, err := there.Lock(ctx, strconv.Itoa(i))
				if err == nil {
					err = second.Unlock(ctx)
				}
				next <- err
			}()
			select {
			case <-first.Contended():
			case <-ctx.Done():
				return ctx.Err()
			}
			return errors.Join(first.Unlock(ctx), <-next)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d names, each handed over once, in %s", names, time.Since(began).Round(time.Millisecond))
}

// CancelAndRemove cancels calls and removes waiters of a few names, at random, while no
// lease ends. No name may have two holders. removeWaiter removes one waiter of a name, if
// there is one. retryable reports other errors of a call that a removal may cause.
func CancelAndRemove(t *testing.T, lockers [2]lock.Locker, removeWaiter func(name string) error, retryable func(error) bool) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	names := []string{"a", "b", "c"}
	inside := make([]atomic.Int32, len(names))
	until := time.Now().Add(3 * time.Second)
	var grants atomic.Int64
	var group errgroup.Group
	for i := range 12 {
		group.Go(func() error {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for time.Now().Before(until) {
				n := rnd.IntN(len(names))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.IntN(50_000))*time.Microsecond)
				take := lockers[i%2].Lock
				if rnd.IntN(4) == 0 {
					take = lockers[i%2].TryLock
				}
				held, err := take(ctx, names[n])
				cancel()
				if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, lock.ErrHeld) || err != nil && retryable(err) {
					continue
				}
				if err != nil {
					return err
				}
				grants.Add(1)
				if inside[n].Add(1) != 1 {
					t.Errorf("%s has two holders", names[n])
				}
				time.Sleep(time.Duration(rnd.IntN(500)) * time.Microsecond)
				inside[n].Add(-1)
				if err := held.Unlock(t.Context()); err != nil {
					t.Errorf("Unlock: %v", err)
				}
			}
			return nil
		})
	}
	group.Go(func() error {
		rnd := rand.New(rand.NewPCG(seed, 100))
		for ; time.Now().Before(until); time.Sleep(poll) {
			if err := removeWaiter(names[rnd.IntN(len(names))]); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d grants", grants.Load())
}

// TakeTurns lets two Lockers take turns while fault damages their servers. The lock must
// change hands again afterwards. If mayFail is set, Lock may return errors meanwhile.
func TakeTurns(t *testing.T, lockers [2]lock.Locker, mayFail bool, fault func()) {
	t.Helper()
	const rounds = 10
	turns := make(chan struct{})
	var inside atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	defer func() { // also after a failed wait
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	}()
	for _, l := range lockers {
		group.Go(func() error {
			for ctx.Err() == nil {
				held, err := l.Lock(ctx, "turns")
				switch {
				case err != nil && (mayFail || ctx.Err() != nil):
					t.Log("Lock:", err)
					continue
				case err != nil:
					return err
				case inside.Add(1) != 1:
					return errors.New("the lock has two holders")
				}
				inside.Add(-1)
				UnlockAnyway(t, held)
				select {
				case turns <- struct{}{}:
				case <-ctx.Done():
				}
			}
			return nil
		})
	}
	for range rounds {
		await(t, turns, callPatience, "the lock to change hands")
	}
	fault()
	began := time.Now()
	for range rounds {
		await(t, turns, callPatience, "the lock to change hands after the fault")
	}
	t.Logf("%d rounds in %s after the fault", rounds, time.Since(began).Round(time.Millisecond))
}

// UnlockAnyway unlocks held, and tries again if the answer was lost. The grant may be lost.
func UnlockAnyway(t *testing.T, held lock.Held) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	for {
		err := held.Unlock(ctx)
		switch {
		case err == nil || errors.Is(err, lock.ErrLost):
			return
		case ctx.Err() != nil:
			t.Error("Unlock:", err)
			return
		}
		t.Log("Unlock:", err)
	}
}

// PartitionedHolder cuts a holder off for longer than its TTL. Lost must be closed before
// the next grant. On a busy machine, the next holder may be notified first, so there are
// three attempts. open opens a Locker behind a link.
func PartitionedHolder(t *testing.T, next lock.Locker, open func() (lock.Locker, Link)) {
	t.Helper()
	const name = "partitioned"
	for range tries {
		cutOff, link := open()
		held := MustLock(t, cutOff, name)
		waiter := LockAside(t, next, name)
		if held.Contended() != nil {
			await(t, held.Contended(), callPatience, "Contended")
		}
		link.Cut()
		inTime := false
		select {
		case <-held.Lost():
			inTime = true
		case <-waiter.Done():
		}
		later := waiter.Granted(t)
		await(t, held.Lost(), callPatience, "the loss")
		link.Heal()
		if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
			t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
		}
		UnlockAnyway(t, later)
		MustWork(t, cutOff, name)
		if inTime {
			return
		}
		t.Log("the next holder got the lock before Lost was closed")
	}
	t.Errorf("Lost was closed too late in each of %d attempts", tries)
}

// Link is a connection that can be cut.
type Link interface {
	Cut()
	Heal()
}
