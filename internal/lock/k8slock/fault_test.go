package k8slock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// faults runs the faults in parallel, each with its own name and Lockers.
func faults(t *testing.T, s *server) {
	for name, test := range map[string]func(*testing.T, *server){
		"ADeadWaiterIsDropped":            deadWaiterIsDropped,
		"ADroppedWaiterQueuesAgain":       droppedWaiterQueuesAgain,
		"APlaceWithoutACallIsRemoved":     latePlaceIsRemoved,
		"AGrantByALateWriteIsRefused":     lateGrantIsRefused,
		"AFullQueueRefuses":               fullQueue,
		"ATryLockReadsTheObject":          tryLockReads,
		"ALiveHolderKeepsItsGrant":        liveHolder,
		"AnUnusedQueueEnds":               unusedQueueEnds,
		"ADeadHolderIsFreedForTryLock":    deadHolderIsFreed,
		"ClocksOfMachinesAreNotCompared":  clocksAreNotCompared,
		"AnExhaustedLeaseIsRefused":       exhaustedLease,
		"AnObjectOfAnotherLockIsRefused":  anothersObject,
		"ADeletedObjectIsMadeAgain":       deletedIsMadeAgain,
		"APartitionedHolderLosesItsGrant": partitionedHolder,
		"AWaiterIsServedAfterAPartition":  partitionedWaiter,
		"ASilentConnectionIsLeft":         silentConnection,
		"AFailedUnlockIsCompletedLater":   failedUnlock,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// setStatus changes the status of a StockLock.
func (s *server) setStatus(t *testing.T, name string, change func(*record)) {
	t.Helper()
	for {
		found, err := decode[stockLock](s.object(t, stockLocks, name))
		if err != nil {
			t.Fatal(err)
		}
		change(&found.Status)
		object, err := encode(found)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.client.Resource(stockLocks).Namespace(testNamespace).UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

// deadWaiterIsDropped: places of a dead Locker are in front of ours. If each took a TTL, all
// would take much longer than a busy machine does.
func deadWaiterIsDropped(t *testing.T, s *server) {
	here, there := s.stock(t, Config{}), s.stock(t, Config{})
	held := locktest.MustLock(t, here, "dead-waiter")
	s.setStatus(t, "dead-waiter", func(r *record) {
		r.Queue = append(r.Queue, waiterOf("dead", 1), waiterOf("dead", 2), waiterOf("dead", 3), waiterOf("dead", 4))
	})
	first, second := locktest.LockAside(t, there, "dead-waiter"), (*locktest.Attempt)(nil)
	s.awaitPlaces(t, "dead-waiter", 6)
	second = locktest.LockAside(t, here, "dead-waiter")
	s.awaitPlaces(t, "dead-waiter", 7)
	freed := time.Now()
	locktest.MustUnlock(t, held)
	next := first.Granted(t)
	// The queue waits a TTL for the first place. The others are dropped with it.
	if took := time.Since(freed); took < noticeTTL || took > 3*noticeTTL {
		t.Errorf("the dead Locker's places were dropped after %s, want little more than one TTL of %s", took, noticeTTL)
	}
	locktest.MustUnlock(t, next)
	locktest.MustUnlock(t, second.Granted(t))
}

func (s *server) awaitPlaces(t *testing.T, name string, n int) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprintf("%d places for %s", n, name), func() bool { return len(stockServer{s}.Entries(t, name)) == n })
}

// droppedWaiterQueuesAgain: another process has dropped a live waiter.
func droppedWaiterQueuesAgain(t *testing.T, s *server) {
	here := s.stock(t, Config{})
	held := locktest.MustLock(t, here, "dropped")
	waiter := locktest.LockAside(t, here, "dropped")
	s.awaitPlaces(t, "dropped", 2)
	s.setStatus(t, "dropped", func(r *record) { r.Queue = nil })
	s.awaitPlaces(t, "dropped", 2)
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, waiter.Granted(t))
}

// latePlaceIsRemoved: a write of ours was applied after its caller had gone.
func latePlaceIsRemoved(t *testing.T, s *server) {
	l := s.stock(t, Config{TTL: longTTL})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "late"))
	s.setStatus(t, "late", func(r *record) {
		r.Queue = append(r.Queue, waiter{Holder: "late", ID: placeID(l.session, math.MaxInt32)})
	})
	s.awaitPlaces(t, "late", 0)
	s.setStatus(t, "late", func(r *record) {
		r.ID, r.Holder, r.LeaseSeconds = placeID(l.session, math.MaxInt32), "late", int32(longTTL/time.Second)
		r.Token++
	})
	s.awaitPlaces(t, "late", 0)
}

// lateGrantIsRefused: a late write grants the lock to a waiter that has written again
// since. It does not know when that lease began, so it must not use the grant.
func lateGrantIsRefused(t *testing.T, s *server) {
	here, there := s.stock(t, Config{TTL: longTTL}), s.stock(t, Config{TTL: longTTL})
	held := locktest.MustLock(t, there, "earlier")
	waiter := locktest.LockAside(t, here, "earlier")
	s.awaitPlaces(t, "earlier", 2)
	here.mu.Lock()
	here.queues["earlier"].places[0].asked = time.Now() // it has written again since
	here.mu.Unlock()
	var early lock.Token
	s.setStatus(t, "earlier", func(r *record) {
		r.grant(longTTL, time.Now().Add(-longTTL))
		early = lock.Token(max(0, r.Token))
	})
	sandboxtest.Await(t, held.Lost(), "the loss")
	next := waiter.Granted(t)
	if next.Token() <= early {
		t.Errorf("token %d belongs to the refused grant", next.Token())
	}
	locktest.MustUnlock(t, next)
}

// fullQueue: a new waiter is refused, and the others keep waiting.
func fullQueue(t *testing.T, s *server) {
	l := s.stock(t, Config{TTL: longTTL})
	held := locktest.MustLock(t, l, "full")
	waiter := locktest.LockAside(t, l, "full")
	s.awaitPlaces(t, "full", 2)
	s.setStatus(t, "full", func(r *record) {
		for i := len(r.Queue); i < queueLimit; i++ {
			r.Queue = append(r.Queue, waiterOf("x", uint64(i)))
		}
	})
	if err := lockErrorOf(t, l.Lock, "full"); !errors.Is(err, errFull) {
		t.Errorf("Lock: %v, want %v", err, errFull)
	}
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, waiter.Granted(t))
}

func waiterOf(session string, n uint64) waiter {
	return waiter{Holder: session, ID: placeID(session, n)}
}

// tryLockReads: a TryLock must not be refused by an older version of the object.
func tryLockReads(t *testing.T, s *server) {
	locktest.MustLock(t, s.stock(t, Config{TTL: longTTL}), "known")
	l := s.stock(t, Config{})
	q := newQueue(l, "known", nameOf(t, "known"))
	if err := q.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	p := q.join(true)
	l.mu.Unlock()
	if todo := q.plan(); todo.done || todo.next != nil {
		t.Errorf("plan is %+v, want a read", todo)
	}
	if err := q.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if todo := q.plan(); !todo.done || !errors.Is(p.refusal, lock.ErrHeld) {
		t.Errorf("plan is %+v with refusal %v, want ErrHeld", todo, p.refusal)
	}
}

// liveHolder holds the lock for more than a TTL. No other caller gets it.
func liveHolder(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			here := opened(t, newLocker, s.config(Config{}))
			there := opened(t, newLocker, s.config(Config{}))
			held := locktest.MustLock(t, here, "living")
			waiter := locktest.LockAside(t, there, "living")
			select {
			case <-waiter.Done():
				t.Fatalf("the waiter returned although the holder lives: %v", waiter.Err())
			case <-held.Lost():
				t.Fatal("the grant is lost although its holder lives")
			case <-time.After(noticeTTL + noticeTTL/3):
			}
			locktest.MustUnlock(t, held)
			locktest.MustUnlock(t, waiter.Granted(t))
		})
	}
}

func unusedQueueEnds(t *testing.T, s *server) {
	l := s.stock(t, Config{})
	l.idle = time.Millisecond
	locktest.MustUnlock(t, locktest.MustLock(t, l, "empty"))
	sandboxtest.Eventually(t, "the end of the queue", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.queues) == 0
	})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "empty"))
}

// deadHolderIsFreed: there are no waiters, only a TryLock.
func deadHolderIsFreed(t *testing.T, s *server) {
	l := s.stock(t, Config{})
	l.idle = time.Millisecond
	locktest.MustUnlock(t, locktest.MustLock(t, l, "dead-holder"))
	s.setStatus(t, "dead-holder", func(r *record) {
		r.ID, r.Holder, r.LeaseSeconds = "dead-1", "x@y:1", int32(testTTL/time.Second)
		r.Token++
	})
	var refused *lock.HeldError
	if _, err := l.TryLock(t.Context(), "dead-holder"); !errors.As(err, &refused) || refused.Holder != "x@y:1" {
		t.Errorf("TryLock: %v", err)
	}
	s.awaitPlaces(t, "dead-holder", 0)
}

// clocksAreNotCompared: the clock of a live holder is an hour slow.
func clocksAreNotCompared(t *testing.T, s *server) {
	l := s.lease(t, Config{})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "slow"))
	holder, slow := "x@y:1/z", metav1.NewMicroTime(time.Now().Add(-time.Hour))
	s.setLease(t, "slow", func(found *leaseObject) {
		found.Spec.HolderIdentity, found.Spec.RenewTime, found.Spec.AcquireTime = &holder, &slow, &slow
	})
	var refused *lock.HeldError
	if _, err := l.TryLock(t.Context(), "slow"); !errors.As(err, &refused) || refused.Holder != holder {
		t.Errorf("TryLock: %v", err)
	}
	asked := time.Now()
	waiter := locktest.LockAside(t, l, "slow")
	const renewed = time.Second
	time.AfterFunc(renewed, func() { // any change of the object counts
		s.setLease(t, "slow", func(found *leaseObject) { found.Annotations["renewed"] = "yes" })
	})
	next := waiter.Granted(t)
	if took := time.Since(asked); took < noticeTTL+renewed {
		t.Errorf("the lease was taken after %s, but its holder changed it after %s", took, renewed)
	}
	locktest.MustUnlock(t, next)
}

func (s *server) setLease(t *testing.T, name string, change func(*leaseObject)) {
	t.Helper()
	for {
		found, err := decode[leaseObject](s.object(t, leaseKind, name))
		if err != nil {
			t.Fatal(err)
		}
		change(found)
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(found)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.client.Resource(leaseKind).Namespace(testNamespace).
			Update(t.Context(), &unstructured.Unstructured{Object: content}, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

func exhaustedLease(t *testing.T, s *server) {
	l := s.lease(t, Config{})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "exhausted"))
	last := int32(math.MaxInt32)
	s.setLease(t, "exhausted", func(found *leaseObject) { found.Spec.LeaseTransitions = &last })
	if err := lockErrorOf(t, l.Lock, "exhausted"); err == nil || !strings.Contains(err.Error(), "cannot rise") {
		t.Errorf("Lock: %v", err)
	}
}

// anothersObject: two names have the same object, because their hashes are equal.
func anothersObject(t *testing.T, s *server) {
	locktest.MustUnlock(t, locktest.MustLock(t, s.lease(t, Config{}), "mine"))
	s.setLease(t, "mine", func(found *leaseObject) { found.Annotations[nameAnnotation] = "yours" })
	for _, call := range []func(context.Context, string) (lock.Held, error){s.lease(t, Config{}).Lock, s.lease(t, Config{}).TryLock} {
		if err := lockErrorOf(t, call, "mine"); !errors.Is(err, errNotOurs) {
			t.Errorf("Lease of another lock: %v, want %v", err, errNotOurs)
		}
	}
	object, err := encode(newStockLock(nameOf(t, "theirs"), "yours"))
	if err != nil {
		t.Fatal(err)
	}
	delete(object.Object, "status")
	if _, err := s.client.Resource(stockLocks).Namespace(testNamespace).Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := lockErrorOf(t, s.stock(t, Config{}).Lock, "theirs"); !errors.Is(err, errNotOurs) {
		t.Errorf("StockLock of another lock: %v, want %v", err, errNotOurs)
	}
}

// deletedIsMadeAgain: an administrator deletes the object while it has a holder, a
// waiter and watches.
func deletedIsMadeAgain(t *testing.T, s *server) {
	l := s.stock(t, Config{TTL: longTTL})
	held := locktest.MustLock(t, l, "deleted")
	waiter := locktest.LockAside(t, s.stock(t, Config{TTL: longTTL}), "deleted")
	sandboxtest.Await(t, held.Contended(), "Contended")
	err := s.client.Resource(stockLocks).Namespace(testNamespace).Delete(t.Context(), nameOf(t, "deleted"), metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, held.Lost(), "the loss")
	locktest.MustUnlock(t, waiter.Granted(t))

	leases := s.lease(t, Config{})
	held = locktest.MustLock(t, leases, "deleted")
	err = s.client.Resource(leaseKind).Namespace(testNamespace).Delete(t.Context(), nameOf(t, "deleted"), metav1.DeleteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, held.Lost(), "the loss")
	locktest.MustUnlock(t, locktest.MustLock(t, leases, "deleted"))
}

// linked returns the configuration of a Locker whose connections can be cut.
func (s *server) linked(t *testing.T, ttl time.Duration) (Config, *sandboxtest.Link) {
	t.Helper()
	link := sandboxtest.NewLink(t, strings.TrimPrefix(s.URL, "https://"))
	at := s.account
	at.URL = "https://" + link.Addr
	return s.config(Config{TTL: ttl, REST: at.config()}), link
}

func partitionedHolder(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			locktest.PartitionedHolder(t, opened(t, newLocker, s.config(Config{})), func() (lock.Locker, locktest.Link) {
				cfg, link := s.linked(t, testTTL)
				return opened(t, newLocker, cfg), link
			})
		})
	}
}

// partitionedWaiter is cut off while its turn comes.
func partitionedWaiter(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cfg, link := s.linked(t, longTTL)
			cutOff := opened(t, newLocker, cfg)
			var holder locker = s.stock(t, Config{TTL: longTTL})
			if kind == "lease" {
				holder = s.lease(t, Config{TTL: longTTL})
			}
			held := locktest.MustLock(t, holder, "cut-off")
			waiter := locktest.LockAside(t, cutOff, "cut-off")
			if held.Contended() != nil {
				sandboxtest.Await(t, held.Contended(), "Contended")
			}
			link.Cut()
			locktest.MustUnlock(t, held)
			link.Heal()
			locktest.MustUnlock(t, waiter.Granted(t))
		})
	}
}

// failedUnlock: Unlock returns an error, and the lock is free once the link works again.
func failedUnlock(t *testing.T, s *server) {
	cfg, link := s.linked(t, longTTL)
	cutOff := opened(t, NewStock, cfg)
	held := locktest.MustLock(t, cutOff, "failed")
	link.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // long enough for one refused connection
	defer cancel()
	if err := held.Unlock(ctx); err == nil || errors.Is(err, lock.ErrLost) || !strings.Contains(err.Error(), link.Addr) {
		t.Errorf("Unlock without a connection: %v, want an error with the server's address", err)
	}
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock again: %v, want %v", err, lock.ErrLost)
	}
	link.Heal()
	locktest.MustUnlock(t, locktest.MustLock(t, s.stock(t, Config{TTL: longTTL}), "failed"))
}

// TestRestart kills and restarts the server. Grants survive, and waiters are served. The
// server has lost its cache of old versions.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	type pair struct {
		held   lock.Held
		waiter *locktest.Attempt
	}
	var pairs []pair
	for _, newLocker := range kinds {
		here := opened(t, newLocker, s.config(Config{TTL: longTTL}))
		there := opened(t, newLocker, s.config(Config{TTL: longTTL}))
		held := locktest.MustLock(t, here, "restart")
		// A client that was never served would treat the refusals of a starting server as
		// permanent.
		if err := lockErrorOf(t, there.TryLock, "restart"); !errors.Is(err, lock.ErrHeld) {
			t.Fatal(err)
		}
		pairs = append(pairs, pair{held, locktest.LockAside(t, there, "restart")})
	}
	s.awaitPlaces(t, "restart", 2)
	s.Process.Kill() // not stopped: it would wait for the open watches
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	oldWatchIsReadAgain(t, s)
	for _, p := range pairs {
		select {
		case <-p.held.Lost():
			t.Error("the restart ended a grant")
		default:
			locktest.MustUnlock(t, p.held)
		}
		locktest.MustUnlock(t, p.waiter.Granted(t))
	}
}

// oldWatchIsReadAgain: the server no longer has the changes since the version (410 Gone).
func oldWatchIsReadAgain(t *testing.T, s *server) {
	t.Helper()
	l := s.lease(t, Config{TTL: longTTL})
	if err := lockErrorOf(t, l.TryLock, "restart"); !errors.Is(err, lock.ErrHeld) {
		t.Fatal(err)
	}
	l.store.mu.Lock()
	last := l.store.latest["restart"]
	last.leaseObject = last.changed(func(old *leaseObject) { old.ResourceVersion = "1" })
	l.store.latest["restart"] = last
	l.store.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.store.awaitChange(ctx, "restart"); err != nil {
		t.Errorf("awaitChange from an old version: %v", err)
	}

	q := newQueue(s.stock(t, Config{}), "restart", nameOf(t, "restart"))
	if err := q.read(ctx); err != nil {
		t.Fatal(err)
	}
	q.current.ResourceVersion = "1"
	if err := q.openWatch(ctx); err == nil {
		event, open := <-q.events.ResultChan()
		q.handle(event, open)
	}
	if q.events != nil || q.current != nil {
		t.Error("the queue uses a watch that misses changes")
	}
}
