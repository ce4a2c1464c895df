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

// faults happen at the same time, each with a name and Lockers of its own.
func faults(t *testing.T, s *server) {
	for name, test := range map[string]func(*testing.T, *server){
		"ADeadWaiterIsDropped":           deadWaiterIsDropped,
		"ADroppedWaiterQueuesAgain":      droppedWaiterQueuesAgain,
		"APlaceThatNobodyWantsIsErased":  latePlaceIsErased,
		"AGrantOfAnEarlierRequestIsNone": earlierGrantIsNone,
		"AFullQueueIsSaidToBe":           fullQueue,
		"ATryLockKnowsWhatIsNow":         tryLockKnows,
		"ALivingHolderKeepsItsGrant":     livingHolder,
		"AnEmptyRoomEnds":                emptyRoomEnds,
		"ADeadHolderIsFreedForTryLock":   deadHolderIsFreed,
		"TheClocksOfOthersDoNotCount":    clocksDoNotCount,
		"ALeaseThatCannotCountIsRefused": exhaustedLease,
		"AnObjectOfAnotherLockIsRefused": anothersObject,
		"ADeletedObjectIsMadeAgain":      deletedIsMadeAgain,
		"APartitionedHolderGivesUp":      partitionedHolder,
		"AWaiterIsServedAfterAPartition": partitionedWaiter,
		"ASilentConnectionIsLeft":        silentConnection,
		"AnUnlockThatFailedIsDoneLater":  failedUnlock,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// setStatus writes what another has written, or ours has, before.
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

// deadWaiterIsDropped: two places of a Locker that has died stand before ours.
func deadWaiterIsDropped(t *testing.T, s *server) {
	here, there := s.stock(t, Config{}), s.stock(t, Config{})
	held := locktest.MustLock(t, here, "dead-waiter")
	s.setStatus(t, "dead-waiter", func(r *record) {
		r.Queue = append(r.Queue, waiterOf("dead", 1), waiterOf("dead", 2))
	})
	first, second := locktest.LockAside(t, there, "dead-waiter"), (*locktest.Attempt)(nil)
	s.awaitPlaces(t, "dead-waiter", 4)
	second = locktest.LockAside(t, here, "dead-waiter")
	s.awaitPlaces(t, "dead-waiter", 5)
	freed := time.Now()
	locktest.MustUnlock(t, held)
	next := first.Granted(t)
	// The queue waits for its first, once: the other one goes with it.
	if took := time.Since(freed); took < noticeTTL || took > 2*noticeTTL {
		t.Errorf("the dead are dropped after %s, at a TTL of %s", took, noticeTTL)
	}
	locktest.MustUnlock(t, next)
	locktest.MustUnlock(t, second.Granted(t))
}

func (s *server) awaitPlaces(t *testing.T, name string, n int) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprintf("%d places for %s", n, name), func() bool { return len(stockServer{s}.Places(t, name)) == n })
}

// droppedWaiterQueuesAgain: another has taken a live waiter for dead.
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

// latePlaceIsErased: a write of ours was applied after its caller had gone.
func latePlaceIsErased(t *testing.T, s *server) {
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

// earlierGrantIsNone: what grants a waiter was sent earlier than it knows of. The
// time from which its lease counts is lost, and so is the grant.
func earlierGrantIsNone(t *testing.T, s *server) {
	here, there := s.stock(t, Config{TTL: longTTL}), s.stock(t, Config{TTL: longTTL})
	held := locktest.MustLock(t, there, "earlier")
	waiter := locktest.LockAside(t, here, "earlier")
	s.awaitPlaces(t, "earlier", 2)
	here.mu.Lock()
	here.queues["earlier"].places[0].asked = time.Now() // it has asked again since
	here.mu.Unlock()
	var early lock.Token
	s.setStatus(t, "earlier", func(r *record) {
		r.grant(longTTL, time.Now().Add(-longTTL))
		early = lock.Token(max(0, r.Token))
	})
	sandboxtest.Await(t, held.Lost(), "the loss")
	next := waiter.Granted(t)
	if next.Token() <= early {
		t.Errorf("token %d is of the grant that was none", next.Token())
	}
	locktest.MustUnlock(t, next)
}

// fullQueue: whoever waits goes on doing so.
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

// tryLockKnows: what a room knew before a TryLock does not refuse it.
func tryLockKnows(t *testing.T, s *server) {
	locktest.MustLock(t, s.stock(t, Config{TTL: longTTL}), "known")
	l := s.stock(t, Config{})
	r := newQueue(l, "known", nameOf(t, "known"))
	if err := r.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	p := r.join(true)
	l.mu.Unlock()
	if todo := r.plan(); todo.done || todo.next != nil {
		t.Errorf("it does not read: %+v", todo)
	}
	if err := r.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if todo := r.plan(); !todo.done || !errors.Is(p.refusal, lock.ErrHeld) {
		t.Errorf("it is not refused: %v, %+v", p.refusal, todo)
	}
}

// livingHolder holds for more than a TTL, and nobody gets in.
func livingHolder(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			made, err := newLocker(s.config(Config{}))
			here := closing(t, made, err)
			made, err = newLocker(s.config(Config{}))
			there := closing(t, made, err)
			held := locktest.MustLock(t, here, "living")
			waiter := locktest.LockAside(t, there, "living")
			select {
			case <-waiter.Done():
				t.Fatalf("another is in while the holder lives: %v", waiter.Err())
			case <-held.Lost():
				t.Fatal("the grant is lost while its holder lives")
			case <-time.After(noticeTTL + noticeTTL/3):
			}
			locktest.MustUnlock(t, held)
			locktest.MustUnlock(t, waiter.Granted(t))
		})
	}
}

func emptyRoomEnds(t *testing.T, s *server) {
	l := s.stock(t, Config{})
	l.idle = time.Millisecond
	locktest.MustUnlock(t, locktest.MustLock(t, l, "empty"))
	sandboxtest.Eventually(t, "the room's end", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.queues) == 0
	})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "empty"))
}

// deadHolderIsFreed: nobody waits, and whoever asks does not stay.
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

// clocksDoNotCount: a holder's clock is an hour slow, and it lives.
func clocksDoNotCount(t *testing.T, s *server) {
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
	time.AfterFunc(renewed, func() { // it does not even move its clock
		s.setLease(t, "slow", func(found *leaseObject) { found.Annotations["renewed"] = "yes" })
	})
	next := waiter.Granted(t)
	if took := time.Since(asked); took < noticeTTL+renewed {
		t.Errorf("the lease is taken after %s, but its holder was heard of after %s", took, renewed)
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

// anothersObject: two names meet in one object, which its hash makes unlikely.
func anothersObject(t *testing.T, s *server) {
	locktest.MustUnlock(t, locktest.MustLock(t, s.lease(t, Config{}), "mine"))
	s.setLease(t, "mine", func(found *leaseObject) { found.Annotations[nameAnnotation] = "yours" })
	for _, call := range []func(context.Context, string) (lock.Held, error){s.lease(t, Config{}).Lock, s.lease(t, Config{}).TryLock} {
		if err := lockErrorOf(t, call, "mine"); !errors.Is(err, errNotOurs) {
			t.Errorf("a lease of another's: %v", err)
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
		t.Errorf("a StockLock of another's: %v", err)
	}
}

// deletedIsMadeAgain: an administrator deletes the object under a holder, a
// waiter and their watches.
func deletedIsMadeAgain(t *testing.T, s *server) {
	l := s.stock(t, Config{TTL: longTTL})
	held := locktest.MustLock(t, l, "deleted")
	waiter := locktest.LockAside(t, s.stock(t, Config{TTL: longTTL}), "deleted")
	sandboxtest.Await(t, held.Wanted(), "Wanted")
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

// linked is the configuration of a Locker on a wire that can be cut.
func (s *server) linked(t *testing.T, ttl time.Duration) (Config, *sandboxtest.Link) {
	t.Helper()
	link := sandboxtest.NewLink(t, strings.TrimPrefix(s.URL, "https://"))
	at := s.account
	at.URL = "https://" + link.Addr
	return s.config(Config{TTL: ttl, REST: at.config()}), link
}

// partitionedHolder is cut off for longer than its TTL.
func partitionedHolder(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for range 3 { // where this process is stopped then, either may hear first
				if s.partitioned(t, newLocker) {
					return
				}
				t.Log("another was granted the lock before its holder knew of the loss")
			}
			t.Error("so it was each time")
		})
	}
}

// partitioned cuts a holder off, and reports whether it knew of its loss in time.
func (s *server) partitioned(t *testing.T, newLocker func(Config) (locker, error)) (inTime bool) {
	t.Helper()
	cfg, link := s.linked(t, testTTL)
	made, err := newLocker(cfg)
	cutOff := closing(t, made, err)
	made, err = newLocker(s.config(Config{}))
	there := closing(t, made, err)
	held := locktest.MustLock(t, cutOff, "partition")
	waiter := locktest.LockAside(t, there, "partition")
	link.Cut()
	// Whichever comes first: it must be the loss.
	select {
	case <-held.Lost():
		inTime = true
	case <-waiter.Done():
	}
	next := waiter.Granted(t)
	sandboxtest.Await(t, held.Lost(), "the loss")
	link.Heal()
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
	}
	locktest.MustUnlock(t, next)
	locktest.MustUnlock(t, locktest.MustLock(t, cutOff, "partition"))
	return inTime
}

// partitionedWaiter is cut off while its turn comes.
func partitionedWaiter(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cfg, link := s.linked(t, longTTL)
			made, err := newLocker(cfg)
			cutOff := closing(t, made, err)
			var holder locker = s.stock(t, Config{TTL: longTTL})
			if kind == "lease" {
				holder = s.lease(t, Config{TTL: longTTL})
			}
			held := locktest.MustLock(t, holder, "cut-off")
			waiter := locktest.LockAside(t, cutOff, "cut-off")
			if held.Wanted() != nil {
				sandboxtest.Await(t, held.Wanted(), "Wanted")
			}
			link.Cut()
			locktest.MustUnlock(t, held)
			link.Heal()
			locktest.MustUnlock(t, waiter.Granted(t))
		})
	}
}

// failedUnlock: the answer says so, and the lock is free once the wire is mended.
func failedUnlock(t *testing.T, s *server) {
	cfg, link := s.linked(t, longTTL)
	made, err := NewStock(cfg)
	cutOff := closing(t, made, err)
	held := locktest.MustLock(t, cutOff, "failed")
	link.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // time for one refusal at least
	defer cancel()
	if err := held.Unlock(ctx); err == nil || errors.Is(err, lock.ErrLost) || !strings.Contains(err.Error(), link.Addr) {
		t.Errorf("Unlock at a server that cannot be reached: %v", err)
	}
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock again: %v, want %v", err, lock.ErrLost)
	}
	link.Heal()
	locktest.MustUnlock(t, locktest.MustLock(t, s.stock(t, Config{TTL: longTTL}), "failed"))
}

// TestRestart: the server dies and starts again. What is held stays so, and who
// waits is served. What was before is not in its memory any more.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := start(t)
	type pair struct {
		held   lock.Held
		waiter *locktest.Attempt
	}
	var pairs []pair
	for _, newLocker := range kinds {
		made, err := newLocker(s.config(Config{TTL: longTTL}))
		here := closing(t, made, err)
		made, err = newLocker(s.config(Config{TTL: longTTL}))
		there := closing(t, made, err)
		held := locktest.MustLock(t, here, "restart")
		// Who was never served takes a server that has just started at its word.
		if err := lockErrorOf(t, there.TryLock, "restart"); !errors.Is(err, lock.ErrHeld) {
			t.Fatal(err)
		}
		pairs = append(pairs, pair{held, locktest.LockAside(t, there, "restart")})
	}
	s.awaitPlaces(t, "restart", 2)
	s.Process.Kill() // it would wait for the end of open watches
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	oldWatchIsReadAgain(t, s)
	for _, p := range pairs {
		select {
		case <-p.held.Lost():
			t.Error("a grant was lost with a restart")
		default:
			locktest.MustUnlock(t, p.held)
		}
		locktest.MustUnlock(t, p.waiter.Granted(t))
	}
}

// oldWatchIsReadAgain: the server does not have the changes since that version
// any more (410 Gone).
func oldWatchIsReadAgain(t *testing.T, s *server) {
	t.Helper()
	l := s.lease(t, Config{TTL: longTTL})
	if err := lockErrorOf(t, l.TryLock, "restart"); !errors.Is(err, lock.ErrHeld) {
		t.Fatal(err)
	}
	l.store.mu.Lock()
	last := l.store.latest["restart"]
	last.lease = last.lease.changed(func(*leaseObject) {})
	last.lease.ResourceVersion = "1"
	l.store.latest["restart"] = last
	l.store.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.store.awaitChange(ctx, "restart"); err != nil {
		t.Errorf("the wait after an old version: %v", err)
	}

	r := newQueue(s.stock(t, Config{}), "restart", nameOf(t, "restart"))
	if err := r.read(ctx); err != nil {
		t.Fatal(err)
	}
	r.current.ResourceVersion = "1"
	if err := r.openWatch(ctx); err == nil {
		event, open := <-r.events.ResultChan()
		r.handle(event, open)
	}
	if r.events != nil || r.current != nil {
		t.Error("the room relies on a watch that has a gap")
	}
}
