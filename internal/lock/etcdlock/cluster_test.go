package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// clusterTTL is longer than an election, even on a busy machine, so that a grant can
// survive one.
const clusterTTL = 12 * time.Second

// clusterLocks are the locks of this package.
var clusterLocks = []struct {
	locktest.Backend
	open func(t *testing.T, ttl time.Duration, endpoints []string) lock.Locker
	// promptly: no request waits for a dead leader. The textbook's requests have no
	// time-out.
	promptly bool
	// survives: a grant survives an election. The textbook's session sends its renewals
	// to one node, and takes long to find another.
	survives bool
}{
	{backend, openAt(New), true, true},
	{try, openAt(NewTry), true, true},
	{textbook, openAt(NewTextbook), false, false},
}

func openAt[L lock.Locker](newLocker func(Config) (L, error)) func(*testing.T, time.Duration, []string) lock.Locker {
	return func(t *testing.T, ttl time.Duration, endpoints []string) lock.Locker {
		t.Helper()
		return opened(t, newLocker, endpoints, Config{TTL: ttl})
	}
}

// TestCluster kills and stops nodes of a cluster of three, for each lock.
func TestCluster(t *testing.T) {
	s := start(t, 3)
	for _, kind := range clusterLocks {
		two := func(t *testing.T, ttl time.Duration, endpoints ...string) [2]lock.Locker {
			t.Helper()
			return [2]lock.Locker{kind.open(t, ttl, endpoints), kind.open(t, ttl, endpoints)}
		}
		t.Run(kind.Name, func(t *testing.T) {
			t.Run("WorksWithoutItsLeader", func(t *testing.T) {
				s.worksWithoutLeader(t, kind.survives, two(t, clusterTTL, s.EtcdEndpoints()...))
			})
			t.Run("LeaderDiesDuringAHandOver", func(t *testing.T) {
				s.diesDuringHandOver(t, kind.promptly, two(t, clusterTTL, s.EtcdEndpoints()...))
			})
			t.Run("MinorityGrantsNothing", func(t *testing.T) {
				s.minorityGrantsNothing(t, two(t, testTTL, s.Etcd[0].Endpoint))
			})
		})
	}
}

// worksWithoutLeader kills the leader while two Lockers take turns. Each may be
// connected to any node. Another grant is held meanwhile.
func (s *server) worksWithoutLeader(t *testing.T, survives bool, lockers [2]lock.Locker) {
	other := locktest.MustLock(t, lockers[0], "other")
	leader := s.leader(t)
	restart := s.restarting(t, leader)
	locktest.TakeTurns(t, lockers, !survives, s.Etcd[leader].Kill)
	restart()
	select {
	case <-other.Lost():
		if survives {
			t.Error("a grant was lost, although only one of three nodes failed")
		}
	default:
		locktest.MustUnlock(t, other)
	}
}

// diesDuringHandOver kills the leader during an Unlock. The Unlock may or may not be
// applied. The waiter must get the lock in both cases and, if promptly, before the
// lease ends.
func (s *server) diesDuringHandOver(t *testing.T, promptly bool, lockers [2]lock.Locker) {
	here, there := lockers[0], lockers[1]
	held := locktest.MustLock(t, here, "hand-over")
	waiter := locktest.LockAside(t, there, "hand-over")
	if _, ok := here.(*Try); !ok {
		sandboxtest.Eventually(t, "the waiter", func() bool { return len(s.Entries(t, "hand-over")) == 2 })
	}
	leader := s.leader(t)
	restart := s.restarting(t, leader)
	dead := make(chan struct{})
	go func() {
		defer close(dead)
		s.Etcd[leader].Kill()
	}()
	began := time.Now()
	locktest.UnlockAnyway(t, held)
	next := waiter.Granted(t)
	took := time.Since(began)
	t.Logf("the waiter got the lock after %s", took.Round(time.Millisecond))
	if promptly && took >= clusterTTL {
		t.Errorf("the waiter got the lock after %s, want less than the TTL of %s", took, clusterTTL)
	}
	select {
	case <-next.Lost():
		t.Error("the waiter's grant was lost at once")
	default:
	}
	<-dead
	restart()
	locktest.UnlockAnyway(t, next)
	locktest.MustUnlock(t, locktest.MustLock(t, here, "hand-over"))
}

// minorityGrantsNothing stops two of three nodes. The clients of the third one must
// not get a lock, and must return at their deadlines.
func (s *server) minorityGrantsNothing(t *testing.T, lockers [2]lock.Locker) {
	here, there := lockers[0], lockers[1]
	held := locktest.MustLock(t, here, "held")
	locktest.MustWork(t, there, "any") // begins its lease
	for _, node := range s.Etcd[1:] {
		sandboxtest.Pause(t, node.Process)
	}
	resume := func() {
		for _, node := range s.Etcd[1:] {
			sandboxtest.Resume(t, node.Process)
		}
	}
	defer resume()
	const timeout = 500 * time.Millisecond
	const late = 750 * time.Millisecond // for a busy machine
	for name, take := range map[string]func(context.Context, string) (lock.Held, error){
		"Lock": there.Lock, "TryLock": there.TryLock,
	} {
		var took []time.Duration // a busy machine may delay one call, but not all
		for len(took) < 3 && (len(took) == 0 || slices.Min(took) > timeout+late) {
			asked := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			// Another name each time: the textbook may still clean up after the last.
			_, err := take(ctx, fmt.Sprint("free-", name, len(took)))
			cancel()
			took = append(took, time.Since(asked))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s without a quorum: %v, want the deadline", name, err)
			}
		}
		if slices.Min(took) > timeout+late {
			t.Errorf("%s without a quorum took %s", name, took)
		}
	}
	sandboxtest.Await(t, held.Lost(), "the loss of the grant without a quorum")
	resume()
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after the loss: %v, want %v", err, lock.ErrLost)
	}
	locktest.MustWork(t, there, "free-Lock0")
	locktest.MustWork(t, here, "held")
}

// restarting returns a function that restarts a node which is about to be killed. The
// test's end calls it at the latest, for the tests that follow.
func (s *server) restarting(t *testing.T, node int) (restart func()) {
	restart = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
		defer cancel()
		if err := s.Etcd[node].Restart(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(restart)
	return restart
}
