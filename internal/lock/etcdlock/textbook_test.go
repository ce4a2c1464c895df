package etcdlock

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

func (s *server) newTextbook(t *testing.T) *Textbook {
	t.Helper()
	return opened(t, NewTextbook, s.EtcdEndpoints(), Config{})
}

// TestTextbookUnlocksAnEtcdThatComesBack before Unlock's context ends.
func TestTextbookUnlocksAnEtcdThatComesBack(t *testing.T) {
	s := start(t, 1)
	held := locktest.MustLock(t, s.newTextbook(t), "n")
	waiter := locktest.LockAside(t, s.newTextbook(t), "n")
	sandboxtest.Eventually(t, "the waiter", func() bool { return len(s.Entries(t, "n")) == 2 })
	s.Kill(t)
	unlocked := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		unlocked <- held.Unlock(ctx)
	}()
	s.Restart(t)
	if err := <-unlocked; err != nil {
		t.Errorf("Unlock: %v", err)
	}
	locktest.MustUnlock(t, waiter.Granted(t))
}

// TestTextbookCleansUpLater: etcd has stored the key of a Lock, but the answer is lost, and
// then etcd does not answer for two seconds. The session goes on.
func TestTextbookCleansUpLater(t *testing.T) {
	s := start(t, 1)
	var lost atomic.Bool // the next answer to a transaction
	client, err := newClient(s.EtcdEndpoints(), grpc.WithUnaryInterceptor(func(ctx context.Context, method string,
		request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		err := invoke(ctx, method, request, answer, conn, options...)
		if strings.HasSuffix(method, "/Txn") && lost.Swap(false) {
			s.Pause(t)
			return context.DeadlineExceeded
		}
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(client)
	cfg.TTL = longTTL
	here, err := NewTextbook(cfg)
	here = locktest.Opened(t, here, err, client.Close)
	locktest.MustUnlock(t, locktest.MustLock(t, here, "other")) // begins its session

	lost.Store(true)
	if _, err := here.Lock(t.Context(), "n"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock: %v, want the deadline", err)
	}
	time.Sleep(2 * time.Second)
	s.Resume(t)
	locktest.MustUnlock(t, locktest.MustLock(t, s.newTextbook(t), "n"))
	locktest.MustUnlock(t, locktest.MustLock(t, here, "n"))
}

// TestTextbookUnlocksOnce: the next grant in the process has the same key.
func TestTextbookUnlocksOnce(t *testing.T) {
	s := start(t, 1)
	here := s.newTextbook(t)
	held := locktest.MustLock(t, here, "n")
	s.Kill(t) // not stopped: it would delete the key later
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := held.Unlock(ctx); err == nil || errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock of a dead server: %v, want an error other than ErrLost", err)
	}
	s.Restart(t)
	next := locktest.MustLock(t, here, "n")
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock again: %v, want %v", err, lock.ErrLost)
	}
	if entries := s.Entries(t, "n"); len(entries) != 1 {
		t.Errorf("entries %q, want only the grant's", entries)
	}
	locktest.MustUnlock(t, next)
}
