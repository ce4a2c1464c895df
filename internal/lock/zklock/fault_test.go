package zklock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/goleak"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

// patience bounds the waits of a test. A Java server on a busy machine needs much of it
// to restart.
const patience = 45 * time.Second

// TestACreateWithoutAnAnswerIsFound cuts the connection between a create and its answer.
// A second create would wait for the first one's node forever.
func TestACreateWithoutAnAnswerIsFound(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	l := newLocker(t, longTTL, link.Addr)
	mustMakeParents(t, l, "n")
	release := hold(t, link)
	waiter := locktest.LockAside(t, l, "n")
	first := s.entries(t, "n", 1)
	link.Cut()
	release()
	link.Heal()
	held := waiter.Granted(t)
	if entries := s.entries(t, "n", 1); entries[0] != first[0] {
		t.Errorf("entry %s, want %s", entries[0], first[0])
	}
	locktest.MustUnlock(t, held)
	s.entries(t, "n", 0)
}

func TestACreateWhoseCallerHasGoneIsUndone(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	l := newLocker(t, longTTL, link.Addr)
	mustMakeParents(t, l, "n")
	release := hold(t, link)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := l.Lock(ctx, "n"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lock: %v", err)
	}
	s.entries(t, "n", 1)
	link.Cut()
	release()
	link.Heal()
	s.entries(t, "n", 0)
}

func TestAWaiterCancelledWhileCutOffIsRemovedLater(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	here, there := newLocker(t, longTTL, s.Addrs()...), newLocker(t, longTTL, link.Addr)
	held := locktest.MustLock(t, here, "n")
	ctx, cancel := context.WithCancel(t.Context())
	refused := make(chan error, 1)
	go func() {
		_, err := there.Lock(ctx, "n")
		refused <- err
	}()
	s.entries(t, "n", 2)
	link.Cut()
	cancel()
	if err := <-refused; !errors.Is(err, context.Canceled) {
		t.Errorf("Lock: %v", err)
	}
	s.entries(t, "n", 2) // the node cannot be deleted yet
	link.Heal()
	s.entries(t, "n", 1)
	locktest.MustUnlock(t, held)
}

func TestAFailedUnlockIsCompletedLater(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	here, there := newLocker(t, longTTL, link.Addr), newLocker(t, longTTL, s.Addrs()...)
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	sandboxtest.Await(t, held.Contended(), "Contended")
	link.Cut()
	sandboxtest.Eventually(t, "the connection's end", func() bool { return here.Healthy() != nil })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := held.Unlock(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), link.Addr) {
		t.Errorf("Unlock without a connection: %v, want the deadline and the server's address", err)
	}
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock again: %v, want %v", err, lock.ErrLost)
	}
	link.Heal()
	locktest.MustUnlock(t, waiter.Granted(t))
	if err := here.Healthy(); err != nil {
		t.Errorf("Healthy: %v; the session was lost before the node was deleted", err)
	}
}

// TestUnlockIsRetriedOnANewConnection when its first one breaks before the answer.
func TestUnlockIsRetriedOnANewConnection(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	l := newLocker(t, longTTL, link.Addr)
	held := locktest.MustLock(t, l, "n")
	release := hold(t, link)
	unlocked := make(chan error, 1)
	go func() { unlocked <- held.Unlock(t.Context()) }()
	s.entries(t, "n", 0) // deleted, but the answer is held back
	link.Cut()
	release()
	link.Heal()
	if err := <-unlocked; err != nil {
		t.Errorf("Unlock: %v", err)
	}
}

func TestAPartitionedHolderGivesUpInTime(t *testing.T) {
	s := start(t, 1)
	locktest.PartitionedHolder(t, newLocker(t, longTTL, s.Addrs()...), func() (lock.Locker, locktest.Link) {
		link := sandboxtest.NewLink(t, s.Addrs()[0])
		return newLocker(t, testTTL, link.Addr), link
	})
}

// TestALostSessionIsClosedOnceTheServerIsReachable: a restarted server would otherwise
// keep the session for its whole time-out.
func TestALostSessionIsClosedOnceTheServerIsReachable(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	l := newLocker(t, longTTL, link.Addr)
	held := locktest.MustLock(t, l, "n")
	link.Cut()
	sandboxtest.Eventually(t, "the connection's end", func() bool { return l.Healthy() != nil })
	l.mu.Lock()
	session := l.session
	l.mu.Unlock()
	session.lease.Lose()
	sandboxtest.Await(t, held.Lost(), "the loss")
	link.Heal()
	s.entries(t, "n", 0)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

// TestNothingOfAnExpiredSessionIsSentInTheNext: the session expires while one of its
// requests waits for a connection.
func TestNothingOfAnExpiredSessionIsSentInTheNext(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Addrs()[0])
	l := newLocker(t, longTTL, link.Addr)
	held := locktest.MustLock(t, l, "another")
	mustMakeParents(t, l, "n")
	release := hold(t, link)
	waiter := locktest.LockAside(t, l, "n")
	old := s.entries(t, "n", 1)[0]
	link.Cut()
	release()
	s.Revoke(t, s.Entries(t, "another")[0])
	link.Heal()
	next := waiter.Granted(t)
	sandboxtest.Await(t, held.Lost(), "the loss")
	entries := s.entries(t, "n", 1)
	if entries[0] == old {
		t.Error("a node of the old session holds the lock in the new one")
	}
	_, stat, err := s.conn.Get(entries[0])
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if id := l.session.conn.SessionID(); stat.EphemeralOwner != id {
		t.Errorf("the node belongs to session %x, want %x", stat.EphemeralOwner, id)
	}
	if got, want := next.Token(), lock.Token(stat.Czxid); got != want {
		t.Errorf("token %d, want the node's transaction %d", got, want)
	}
}

// TestTheServersTimeOutIsUsed if it is shorter than the TTL.
func TestTheServersTimeOutIsUsed(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, time.Hour, s.Addrs()...)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
	l.mu.Lock()
	defer l.mu.Unlock()
	if got, most := l.session.wire.timeout(), 2*time.Minute; got != most {
		t.Errorf("the session's time-out is %s, want the server's %s", got, most)
	}
}

// TestAGrantSurvivesARestart kills the server and restarts it with its data.
func TestAGrantSurvivesARestart(t *testing.T) {
	s := start(t, 1)
	here, there := newLocker(t, longTTL, s.Addrs()...), newLocker(t, longTTL, s.Addrs()...)
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	sandboxtest.Await(t, held.Contended(), "Contended")
	before := s.Entries(t, "n")
	s.Kill(t)
	if err := s.Nodes[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := s.entries(t, "n", 2); after[0] != before[0] || after[1] != before[1] {
		t.Errorf("entries %q, want %q", after, before)
	}
	locktest.MustUnlock(t, held)
	next := waiter.Granted(t)
	if next.Token() <= held.Token() {
		t.Errorf("token %d follows %d, want a larger one", next.Token(), held.Token())
	}
	locktest.MustUnlock(t, next)
}

// TestAnEnsembleWorksWithoutItsLeader kills the leader while two Lockers take turns.
func TestAnEnsembleWorksWithoutItsLeader(t *testing.T) {
	s := start(t, 3)
	lockers := [2]lock.Locker{newLocker(t, patience, s.Addrs()...), newLocker(t, patience, s.Addrs()...)}
	other := locktest.MustLock(t, lockers[0], "other")
	locktest.TakeTurns(t, lockers, false, func() { s.leader(t).Kill() })
	locktest.MustUnlock(t, other)
}

// TestAMinorityGrantsNothing kills two of three nodes. Lock returns at its deadline and
// names the servers.
func TestAMinorityGrantsNothing(t *testing.T) {
	s := start(t, 3)
	l := newLocker(t, testTTL, s.Addrs()...)
	held := locktest.MustLock(t, l, "n")
	s.Nodes[0].Kill()
	s.Nodes[1].Kill()
	sandboxtest.Await(t, held.Lost(), "the loss")
	const timeout, late = 500 * time.Millisecond, time.Second
	var took []time.Duration // a busy machine may delay one call, but not all
	for len(took) < 3 && (len(took) == 0 || slices.Min(took) > timeout+late) {
		asked := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		_, err := l.Lock(ctx, "other")
		cancel()
		took = append(took, time.Since(asked))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), s.Addrs()[0]) {
			t.Errorf("Lock: %v", err)
		}
	}
	if slices.Min(took) > timeout+late {
		t.Errorf("Lock returned after %s, want %s", took, timeout)
	}
	if l.Healthy() == nil {
		t.Error("Healthy is nil without a quorum")
	}
	if err := s.Nodes[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	locktest.MustWork(t, l, "n")
	sandboxtest.Eventually(t, "Healthy to be nil with a quorum", func() bool { return l.Healthy() == nil })
}

// TestCancelsAndRemovalsNeverLetTwoIn, and leave no node.
func TestCancelsAndRemovalsNeverLetTwoIn(t *testing.T) {
	s := start(t, 1)
	lockers := [2]*Locker{newLocker(t, longTTL, s.Addrs()...), newLocker(t, longTTL, s.Addrs()...)}
	locktest.CancelAndRemove(t, [2]lock.Locker{lockers[0], lockers[1]}, func(name string) error {
		if nodes := s.Entries(t, name); len(nodes) > 3 {
			// While the first node exists, the last one does not hold the lock. Both may be
			// gone.
			_, _ = s.conn.Multi(&zk.CheckVersionRequest{Path: nodes[0], Version: anyVersion},
				&zk.DeleteRequest{Path: nodes[len(nodes)-1], Version: anyVersion})
		}
		return nil
	}, func(err error) bool { return errors.Is(err, errRemoved) }) // of a TryLock, after two removals
	s.nothingLeft(t, lockers[:]...)
}

func TestManyNames(t *testing.T) {
	s := start(t, 1)
	here, there := newLocker(t, longTTL, s.Addrs()...), newLocker(t, longTTL, s.Addrs()...)
	locktest.ManyNames(t, here, there)
	s.nothingLeft(t, here, there)
}

// TestZooKeeperRemovesTheParents of the nodes, up to the root.
func TestZooKeeperRemovesTheParents(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, longTTL, s.Addrs()...)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
	locktest.MustUnlock(t, locktest.MustLock(t, l, ".."))
	sandboxtest.Eventually(t, "the parents to be removed", func() bool {
		found, _, err := s.conn.Exists("/flashsale")
		return err == nil && !found
	})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

func TestCloseLeavesNothing(t *testing.T) {
	s := start(t, 1)
	s.entries(t, "held", 0) // connects the operator's client
	ignored := goleak.IgnoreCurrent()
	connections := s.metric(t, "zk_num_alive_connections")
	l, err := New(Config{Servers: s.Addrs(), Prefix: testPrefix, TTL: longTTL, Owner: testOwner})
	if err != nil {
		t.Fatal(err)
	}
	locktest.MustLock(t, l, "held")
	ctx, cancel := context.WithCancel(t.Context())
	var waiters sync.WaitGroup
	for range 5 {
		waiters.Go(func() {
			if _, err := l.Lock(ctx, "held"); err == nil {
				t.Error("a waiter got a lock that is held")
			}
		})
	}
	s.entries(t, "held", 6)
	cancel()
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	waiters.Wait()
	l.stragglers.Wait()
	leaks.None(t, ignored)
	sandboxtest.Eventually(t, "the connection's end", func() bool { return s.metric(t, "zk_num_alive_connections") == connections })
	s.nothingLeft(t)
}

func TestHealthyRecoversAfterALoss(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, testTTL, s.Addrs()...)
	if err := l.Healthy(); err != nil {
		t.Errorf("Healthy before the first lock: %v", err)
	}
	held := locktest.MustLock(t, l, "n")
	s.Revoke(t, s.Entries(t, "n")[0])
	sandboxtest.Await(t, held.Lost(), "the loss")
	sawError := false
	sandboxtest.Eventually(t, "another session", func() bool { // without another Lock
		err := l.Healthy()
		sawError = sawError || err != nil
		return sawError && err == nil
	})
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Healthy(); !errors.Is(err, lock.ErrClosed) {
		t.Errorf("Healthy after Close: %v, want %v", err, lock.ErrClosed)
	}
}

// hold holds back answers until release, or until the test ends.
func hold(t *testing.T, link *sandboxtest.Link) (release func()) {
	release = sync.OnceFunc(link.Hold())
	t.Cleanup(release)
	return release
}

// mustMakeParents creates the parents of a name's nodes, so that the first request of
// a Lock does not have to. They have had no nodes yet, so ZooKeeper keeps them.
func mustMakeParents(t *testing.T, l *Locker, name string) {
	t.Helper()
	session, err := l.sessionFor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := session.makePath(l.pathOf(name)); err != nil {
		t.Fatal(err)
	}
}

// entries waits until name has n entries.
func (s *server) entries(t *testing.T, name string, n int) (entries []string) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprintf("%d entries", n), func() bool { entries = s.Entries(t, name); return len(entries) == n })
	return entries
}

// nothingLeft waits until the server has no nodes and watches, and the Lockers have no
// places.
func (s *server) nothingLeft(t *testing.T, lockers ...*Locker) {
	t.Helper()
	sandboxtest.Eventually(t, "all nodes and watches to be removed", func() bool {
		return s.metric(t, "zk_ephemerals_count") == 0 && s.metric(t, "zk_watch_count") == 0
	})
	sandboxtest.Eventually(t, "all places and watches to be forgotten", func() bool {
		left := 0
		for _, l := range lockers {
			l.mu.Lock()
			left += len(l.places)
			s := l.session
			l.mu.Unlock()
			s.mu.Lock()
			left += len(s.watches)
			s.mu.Unlock()
		}
		return left == 0
	})
}

// metric reads one of the server's counters.
func (s *server) metric(t *testing.T, name string) int {
	t.Helper()
	text, err := s.Nodes[0].Ask(t.Context(), "mntr")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+"\t"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}
