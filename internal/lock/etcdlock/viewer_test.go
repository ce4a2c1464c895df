package etcdlock

import (
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestHolderNamesProcessAndAddress(t *testing.T) {
	t.Parallel()
	s := start(t, 1)
	seller, other := s.newLocker(t), s.newLocker(t)
	seller.cfg.Owner.Process, seller.cfg.Owner.Addr = "p1", "10.0.0.1:9000"
	if _, ok := other.Holder("lamp"); ok {
		t.Error("an unused name has a holder")
	}
	held, err := seller.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.TryLock(t.Context(), "lamp"); !errors.Is(err, lock.ErrHeld) {
		t.Fatalf("got %v, want ErrHeld", err)
	}
	holder, ok := other.Holder("lamp")
	if !ok || holder.Token != held.Token() || holder.Process != "p1" || holder.Addr != "10.0.0.1:9000" || holder.Mine {
		t.Errorf("Holder returned %+v, %v, want p1 at 10.0.0.1:9000 with token %d", holder, ok, held.Token())
	}
	if mine, ok := seller.Holder("lamp"); !ok || !mine.Mine {
		t.Errorf("Holder of the holder's Locker returned %+v, %v, want Mine", mine, ok)
	}
	if err := held.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, holder.Gone, "the end of the grant")
	if h, ok := other.Holder("lamp"); ok {
		t.Errorf("a free lock has the holder %+v", h)
	}
}

func TestEvictionEndsOneGrantAndNoLaterOne(t *testing.T) {
	t.Parallel()
	s := start(t, 1)
	seller, other := s.newLocker(t), s.newLocker(t)
	slow, err := seller.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan lock.Held, 1)
	go func() {
		held, err := other.Lock(t.Context(), "lamp")
		if err != nil {
			t.Error(err)
		}
		next <- held
	}()
	sandboxtest.Await(t, slow.Contended(), "a waiter")
	for { // the other Locker may not have etcd's answer yet
		if _, ok := other.Holder("lamp"); ok {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := other.Evict(t.Context(), "lamp", slow.Token()); err != nil {
		t.Fatal(err)
	}
	held := granted(t, next)
	sandboxtest.Await(t, slow.Lost(), "the loss of the lock")
	if slow.(lock.LossReporter).TimedOut() {
		t.Error("TimedOut is true after an eviction")
	}
	if held.Token() <= slow.Token() {
		t.Errorf("token %d follows %d, want a larger one", held.Token(), slow.Token())
	}
	for _, l := range []*Locker{other, seller} {
		if err := l.Evict(t.Context(), "lamp", slow.Token()); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("second Evict: %v, want ErrNotHeld", err)
		}
	}
	if err := slow.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want ErrLost", err)
	}
	select {
	case <-held.Lost():
		t.Error("the second Evict ended the next grant")
	case <-time.After(0):
	}
}

func TestTimedOutIsTrueWhenEtcdDidNotAnswer(t *testing.T) {
	l, q := newView(t, time.Minute)
	p := newPlace(l, q, 1, 30)
	p.state = held
	l.mu.Lock()
	l.endLease(l.lease, errTimedOut)
	l.mu.Unlock()
	sandboxtest.Await(t, p.Lost(), "the loss of the lock")
	if !p.TimedOut() {
		t.Error("TimedOut is false after a lease that could not be renewed")
	}
}
