package etcdlock

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// clusterTTL is longer than an election, even on a busy machine, so that a grant can
// survive one.
const clusterTTL = 12 * time.Second

// clusterLocks are the locks of this package.
var clusterLocks = []struct {
	name string
	make func(Config) (lock.Locker, error)
	// promptly: Lock returns at its deadline, and no request waits for a dead leader.
	// The textbook's Lock first cleans up, and its requests have no time-out.
	promptly bool
	// keeps: a grant survives an election. The textbook's session sends its renewals
	// to one node, and takes long to find another.
	keeps bool
}{
	{"etcd", func(cfg Config) (lock.Locker, error) { return New(cfg) }, true, true},
	{"etcd-try", func(cfg Config) (lock.Locker, error) { return NewTry(cfg) }, true, true},
	{"etcd-textbook", func(cfg Config) (lock.Locker, error) { return NewTextbook(cfg) }, false, false},
}

// TestCluster kills and stops nodes of a cluster of three, for each lock.
func TestCluster(t *testing.T) {
	s := start(t, 3)
	for _, kind := range clusterLocks {
		open := func(t *testing.T, ttl time.Duration, endpoints ...string) lock.Locker {
			t.Helper()
			cfg := testConfig(nil)
			cfg.TTL = ttl
			return openLocker(t, kind.make, cfg, endpoints)
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Run("WorksWithoutItsLeader", func(t *testing.T) {
				s.worksWithoutLeader(t, kind.keeps, open(t, clusterTTL, s.EtcdEndpoints()...), open(t, clusterTTL, s.EtcdEndpoints()...))
			})
			t.Run("LeaderDiesDuringAHandOver", func(t *testing.T) {
				s.diesDuringHandOver(t, kind.promptly, open(t, clusterTTL, s.EtcdEndpoints()...), open(t, clusterTTL, s.EtcdEndpoints()...))
			})
			t.Run("MinorityGrantsNothing", func(t *testing.T) {
				minority := s.Etcd[0].Endpoint
				s.minorityGrantsNothing(t, kind.promptly, open(t, testTTL, minority), open(t, testTTL, minority))
			})
		})
	}
}

// openLocker makes a Locker with its own client. The test's end closes both.
func openLocker(t *testing.T, make func(Config) (lock.Locker, error), cfg Config, endpoints []string) lock.Locker {
	t.Helper()
	client, err := newClient(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Client = client
	l, err := make(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
		client.Close()
	})
	return l
}

// worksWithoutLeader kills the leader while two Lockers take turns. Each may be
// connected to any node. Another grant is held meanwhile.
func (s *server) worksWithoutLeader(t *testing.T, keeps bool, lockers ...lock.Locker) {
	kept := locktest.MustLock(t, lockers[0], "kept")
	var rounds atomic.Int64
	var inside atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group errgroup.Group
	for _, l := range lockers {
		group.Go(func() error {
			for ctx.Err() == nil {
				held, err := l.Lock(ctx, "round")
				if err != nil {
					t.Log("lock:", err) // the last call is cancelled
					continue
				}
				if inside.Add(1) != 1 {
					return errors.New("the lock has two holders")
				}
				inside.Add(-1)
				if err := giveBack(t, held); err != nil {
					return err
				}
				rounds.Add(1)
			}
			return nil
		})
	}
	sandboxtest.Eventually(t, "the lock to change hands", func() bool { return rounds.Load() > 4 })
	leader := s.leader(t)
	restart := s.restarting(t, leader)
	killed := time.Now()
	s.Etcd[leader].Kill()
	before := rounds.Load()
	sandboxtest.Eventually(t, "the lock to change hands without the leader", func() bool { return rounds.Load() > before+4 })
	t.Logf("4 rounds %s after the leader's death", time.Since(killed).Round(time.Millisecond))
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	restart()
	select {
	case <-kept.Lost():
		if keeps {
			t.Error("a grant was lost, although only one of three nodes failed")
		}
	default:
		locktest.MustUnlock(t, kept)
	}
}

// giveBack unlocks, and retries if the answer was lost.
func giveBack(t *testing.T, held lock.Held) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := held.Unlock(ctx)
		if err == nil || errors.Is(err, lock.ErrLost) {
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		t.Log("unlock:", err)
	}
}

// diesDuringHandOver kills the leader during an Unlock. The Unlock may or may not be
// applied. The waiter must get the lock in both cases and, if promptly, before the
// lease ends.
func (s *server) diesDuringHandOver(t *testing.T, promptly bool, here, there lock.Locker) {
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
	if err := giveBack(t, held); err != nil {
		t.Error(err)
	}
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
	if err := giveBack(t, next); err != nil {
		t.Error(err)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, here, "hand-over"))
}

// minorityGrantsNothing stops two of three nodes. The clients of the third one must
// not get a lock, and must return at their deadlines.
func (s *server) minorityGrantsNothing(t *testing.T, promptly bool, here, there lock.Locker) {
	held := locktest.MustLock(t, here, "held")
	locktest.MustUnlock(t, locktest.MustLock(t, there, "known")) // begins its lease
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
	// For a busy machine, and for the textbook's clean-up.
	late := 750 * time.Millisecond
	if !promptly {
		late += cleanUpTimeout
	}
	for name, take := range map[string]func(context.Context, string) (lock.Held, error){
		"Lock": there.Lock, "TryLock": there.TryLock,
	} {
		var took []time.Duration // a busy machine may delay one call, but not all
		for len(took) < 3 && (len(took) == 0 || slices.Min(took) > timeout+late) {
			asked := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			_, err := take(ctx, "free-"+name)
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
	locktest.MustUnlock(t, locktest.MustLock(t, there, "free-Lock"))
	locktest.MustUnlock(t, locktest.MustLock(t, here, "held"))
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
