package etcdlock

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flashsale/internal/lock"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestInspectListsHolderAndWaitersAndRevokeEndsTheGrant(t *testing.T) {
	t.Parallel()
	s := start(t, 1)
	holding, waiting := s.newLocker(t), s.newLocker(t)
	first, err := holding.Lock(t.Context(), "lamp")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holding.Lock(t.Context(), "lamp-2"); err != nil {
		t.Fatal(err)
	}
	second := make(chan lock.Held, 1)
	go func() {
		held, err := waiting.Lock(context.WithoutCancel(t.Context()), "lamp")
		if err != nil {
			t.Error(err)
		}
		second <- held
	}()
	for len(s.Entries(t, "lamp")) < 2 {
		time.Sleep(time.Millisecond)
	}
	got, err := waiting.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []lock.Info{
		{Name: "lamp", Holder: "r@h:1", Replica: "r", Token: first.Token(), Queue: []string{"r@h:1"}},
		{Name: "lamp-2", Holder: "r@h:1", Replica: "r"},
	}
	if len(got) != 2 || got[0].Since.IsZero() || got[1].Token == 0 {
		t.Fatalf("Inspect returned %+v, want two locks with a time and a token", got)
	}
	got[1].Token = 0
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(lock.Info{}, "Since")); diff != "" {
		t.Error(diff)
	}
	if err := waiting.Revoke(t.Context(), "lamp"); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, first.Lost(), "the loss of the lock")
	held := granted(t, second)
	if err := held.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
	if err := waiting.Revoke(t.Context(), "lamp"); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of a free lock: %v, want %v", err, lock.ErrNotHeld)
	}
}

// granted waits for the result of a Lock in another goroutine.
func granted(t *testing.T, result <-chan lock.Held) lock.Held {
	t.Helper()
	select {
	case held := <-result:
		if held == nil {
			t.FailNow() // its goroutine has reported the error
		}
		return held
	case <-time.After(2 * time.Minute):
		t.Fatal("the waiter did not get the lock")
		return nil
	}
}
