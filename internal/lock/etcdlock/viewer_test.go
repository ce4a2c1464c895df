package etcdlock

import (
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
)

func TestOthersKnowWhoHoldsAndWhereToReachThem(t *testing.T) {
	t.Parallel()
	s := start(t, 1)
	seller, other := s.newLocker(t), s.newLocker(t)
	seller.cfg.Owner.Process, seller.cfg.Owner.Addr = "p1", "10.0.0.1:9000"
	if _, known := other.Holder("lamp"); known {
		t.Error("somebody holds a name that was never used")
	}
	held, err := seller.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.TryLock(t.Context(), "lamp"); !errors.Is(err, lock.ErrHeld) {
		t.Fatalf("got %v, want ErrHeld", err)
	}
	holder, known := other.Holder("lamp")
	if !known || holder.Token != held.Token() || holder.Process != "p1" || holder.Addr != "10.0.0.1:9000" || holder.Mine {
		t.Errorf("got %+v, %v", holder, known)
	}
	if mine, known := seller.Holder("lamp"); !known || !mine.Mine {
		t.Errorf("the holder's own view is %+v, %v", mine, known)
	}
	if err := held.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-holder.Gone
	if h, known := other.Holder("lamp"); known {
		t.Errorf("%+v holds a free lock", h)
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
	<-slow.Wanted()
	for { // etcd's answer to the other one may still be on its way
		if _, known := other.Holder("lamp"); known {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := other.Evict(t.Context(), "lamp", slow.Token()); err != nil {
		t.Fatal(err)
	}
	held := <-next
	<-slow.Lost()
	if slow.(lock.Silenced).Silent() {
		t.Error("an evicted grant says that etcd was silent")
	}
	if held.Token() <= slow.Token() {
		t.Errorf("token %d follows %d", held.Token(), slow.Token())
	}
	for _, l := range []*Locker{other, seller} {
		if err := l.Evict(t.Context(), "lamp", slow.Token()); !errors.Is(err, lock.ErrNotHeld) {
			t.Errorf("evicted twice: %v, want ErrNotHeld", err)
		}
	}
	if err := slow.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("got %v, want ErrLost", err)
	}
	select {
	case <-held.Lost():
		t.Error("the next holder lost its grant")
	case <-time.After(0):
	}
}

func TestALossBySilenceSaysSo(t *testing.T) {
	l, q := newView(t, time.Minute)
	p := newPlace(l, q, 1, 30)
	p.state = held
	l.mu.Lock()
	l.endLease(l.lease, errSilent)
	l.mu.Unlock()
	<-p.Lost()
	if !p.Silent() {
		t.Error("a lease that could not be renewed is not told from one that etcd ended")
	}
}
