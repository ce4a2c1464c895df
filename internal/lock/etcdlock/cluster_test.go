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

// clusterTTL is longer than an election takes, also on a busy machine: a grant may
// be kept through one.
const clusterTTL = 12 * time.Second

// clusterLocks are all locks in etcd.
var clusterLocks = []struct {
	name string
	make func(Config) (lock.Locker, error)
	// promptly: Lock returns at its deadline, where the textbook's cleans up
	// first; and no request waits as long for a dead leader as etcd lets it.
	promptly bool
	// keeps: a grant outlives an election. The textbook's session sends its
	// renewals to one node, and takes its time to find another.
	keeps bool
}{
	{"etcd", func(cfg Config) (lock.Locker, error) { return New(cfg) }, true, true},
	{"etcd-try", func(cfg Config) (lock.Locker, error) { return NewTry(cfg) }, true, true},
	{"etcd-textbook", func(cfg Config) (lock.Locker, error) { return NewTextbook(cfg) }, false, false},
}

// TestCluster lets nodes of three die and hang, under each lock.
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
			t.Run("GoesOnWithoutItsLeader", func(t *testing.T) {
				s.goesRound(t, kind.keeps, open(t, clusterTTL, s.EtcdEndpoints()...), open(t, clusterTTL, s.EtcdEndpoints()...))
			})
			t.Run("LeaderDiesInAHandOver", func(t *testing.T) {
				s.diesInHandOver(t, kind.promptly, open(t, clusterTTL, s.EtcdEndpoints()...), open(t, clusterTTL, s.EtcdEndpoints()...))
			})
			t.Run("MinorityRefuses", func(t *testing.T) {
				minority := s.Etcd[0].Endpoint
				s.minorityRefuses(t, kind.promptly, open(t, testTTL, minority), open(t, testTTL, minority))
			})
		})
	}
}

// openLocker makes a Locker with a client of its own; both are closed with the test.
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

// goesRound kills the leader while two take turns; which node each of them talks
// to is anybody's guess. A third grant is held meanwhile.
func (s *server) goesRound(t *testing.T, keeps bool, lockers ...lock.Locker) {
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
					t.Log("lock:", err) // the last one: that it was cancelled
					continue
				}
				if inside.Add(1) != 1 {
					return errors.New("two are inside")
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
	sandboxtest.Eventually(t, "the lock to go round", func() bool { return rounds.Load() > 4 })
	leader := s.leader(t)
	restart := s.restarting(t, leader)
	killed := time.Now()
	s.Etcd[leader].Kill()
	before := rounds.Load()
	sandboxtest.Eventually(t, "the lock to go round without its leader", func() bool { return rounds.Load() > before+4 })
	t.Logf("4 rounds %s after the leader's death", time.Since(killed).Round(time.Millisecond))
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	restart()
	select {
	case <-kept.Lost():
		if keeps {
			t.Error("a grant was lost with one of three nodes")
		}
	default:
		locktest.MustUnlock(t, kept)
	}
}

// giveBack unlocks, again where the answer was lost with a node.
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

// diesInHandOver kills the leader at the moment of an Unlock. Whether that was
// applied is open; the waiter must be granted the lock either way, and promptly
// before the lease's end could have helped.
func (s *server) diesInHandOver(t *testing.T, promptly bool, here, there lock.Locker) {
	held := locktest.MustLock(t, here, "hand-over")
	waiter := locktest.LockAside(t, there, "hand-over")
	if _, ok := here.(*Try); !ok {
		sandboxtest.Eventually(t, "the waiter", func() bool { return len(s.Places(t, "hand-over")) == 2 })
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
	t.Logf("the next holder is in after %s", took.Round(time.Millisecond))
	if promptly && took >= clusterTTL {
		t.Errorf("the next holder is in after %s, at a TTL of %s", took, clusterTTL)
	}
	select {
	case <-next.Lost():
		t.Error("the grant was lost at once")
	default:
	}
	<-dead
	restart()
	if err := giveBack(t, next); err != nil {
		t.Error(err)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, here, "hand-over"))
}

// minorityRefuses stops two of three nodes. The third one, which its clients go
// on talking to, must neither grant a lock nor keep anybody waiting for longer
// than he would.
func (s *server) minorityRefuses(t *testing.T, promptly bool, here, there lock.Locker) {
	held := locktest.MustLock(t, here, "held")
	locktest.MustUnlock(t, locktest.MustLock(t, there, "known")) // it has a lease
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
	// The machine's scheduling; and what the textbook's clean-up may take.
	late := 750 * time.Millisecond
	if !promptly {
		late += cleanUpTimeout
	}
	for name, take := range map[string]func(context.Context, string) (lock.Held, error){
		"Lock": there.Lock, "TryLock": there.TryLock,
	} {
		var took []time.Duration // on a busy machine one may be late, and not each
		for len(took) < 3 && (len(took) == 0 || slices.Min(took) > timeout+late) {
			asked := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			_, err := take(ctx, "free-"+name)
			cancel()
			took = append(took, time.Since(asked))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s in a minority: %v", name, err)
			}
		}
		if slices.Min(took) > timeout+late {
			t.Errorf("%s in a minority took %s", name, took)
		}
	}
	sandboxtest.Await(t, held.Lost(), "the holder in the minority to give up")
	resume()
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock of what was lost: %v, want %v", err, lock.ErrLost)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, there, "free-Lock"))
	locktest.MustUnlock(t, locktest.MustLock(t, here, "held"))
}

// restarting is for a node that is about to die: it starts it again. It is called
// with the test's end at the latest, for those that come after.
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
