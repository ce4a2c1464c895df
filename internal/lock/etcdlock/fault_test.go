package etcdlock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

// patience bounds the waits of a test.
const patience = 20 * time.Second

// noticeTTL is for what a Locker does a few times a TTL. It is long enough that a busy
// machine does not lose the lease.
const noticeTTL = 6 * time.Second

func TestALateKeyThatTheWatchShowsIsDeleted(t *testing.T) {
	s := start(t, 1)
	l := s.newLocker(t)
	held := locktest.MustLock(t, l, "n")
	s.putLate(t, l, "n")
	sandboxtest.Eventually(t, "the late key's end", func() bool { return len(s.Entries(t, "n")) == 1 })
	locktest.MustUnlock(t, held)
}

// TestALateKeyThatAListShowsIsDeleted: the late key is in front of ours.
func TestALateKeyThatAListShowsIsDeleted(t *testing.T) {
	s := start(t, 1)
	l := s.newLocker(t)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "another")) // begins the lease
	s.putLate(t, l, "n")
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

func TestALateKeyThatNoWatchShowsIsDeleted(t *testing.T) {
	s := start(t, 1)
	l := newLockerAt(t, s.EtcdEndpoints(), Config{TTL: noticeTTL})
	held := locktest.MustLock(t, l, "n")
	s.putLate(t, l, "unused")
	sandboxtest.Eventually(t, "the comparison with the lease's keys", func() bool { return len(s.Entries(t, "unused")) == 0 })
	locktest.MustUnlock(t, held)
}

// putLate creates the key of a request that was applied after its caller had gone.
func (s *server) putLate(t *testing.T, l *Locker, name string) {
	t.Helper()
	l.mu.Lock()
	id := l.lease.id
	l.mu.Unlock()
	key := fmt.Sprintf("%s%s/%x-late", testPrefix, name, id)
	if _, err := s.client.Put(t.Context(), key, "", clientv3.WithLease(id)); err != nil {
		t.Fatal(err)
	}
}

func TestAFailedUnlockIsCompletedLater(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, strings.TrimPrefix(s.Etcd[0].Endpoint, "http://"))
	here := newLockerAt(t, []string{"http://" + link.Addr}, Config{})
	there := s.newLocker(t)
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	sandboxtest.Await(t, held.Contended(), "Contended")
	link.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := held.Unlock(ctx); err == nil || errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock without a connection: %v, want an error other than ErrLost", err)
	}
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock again: %v, want %v", err, lock.ErrLost)
	}
	link.Heal()
	locktest.MustUnlock(t, waiter.Granted(t))
	if err := here.Healthy(); err != nil {
		t.Errorf("Healthy: %v; the lease was lost before the key was deleted", err)
	}
	if keys := s.keys(t); len(keys) != 0 {
		t.Errorf("keys %q are left", keys)
	}
}

func TestAWaiterQueuesAgainWhenItsLeaseEnds(t *testing.T) {
	s := start(t, 1)
	here, there := s.newLocker(t), s.newLocker(t)
	holder := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	var first []string
	sandboxtest.Eventually(t, "the waiter", func() bool { first = s.Entries(t, "n"); return len(first) == 2 })
	s.Revoke(t, first[1])
	sandboxtest.Eventually(t, "the waiter to queue again", func() bool {
		again := s.Entries(t, "n")
		return len(again) == 2 && again[1] != first[1]
	})
	locktest.MustUnlock(t, holder)
	locktest.MustUnlock(t, waiter.Granted(t))
}

// TestUnlockIsComparedInEtcd removes a holder's key while its Locker has no watch.
// Only the transaction can notice this.
func TestUnlockIsComparedInEtcd(t *testing.T) {
	s := start(t, 1)
	l := s.newLocker(t)
	held := locktest.MustLock(t, l, "n")
	// If a watch is cancelled while it is being opened, etcd's client leaves it open on
	// the server.
	s.awaitWatch(t, held, "n")
	l.mu.Lock()
	l.stopWatch()
	l.mu.Unlock()
	sandboxtest.Eventually(t, "the watch's end", func() bool { return s.metric(t, "etcd_debugging_mvcc_watcher_total") == 0 })
	s.Remove(t, s.Entries(t, "n")[0])
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
	}
}

// awaitWatch waits until the watch of the holder's Locker is open, by a foreign key
// that only the watch shows. The name must have no waiters.
func (s *server) awaitWatch(t *testing.T, holder lock.Held, name string) {
	t.Helper()
	if _, err := s.client.Put(t.Context(), testPrefix+name+"/foreign", ""); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, holder.Contended(), "the watch")
}

func TestHealthyRecoversAfterALoss(t *testing.T) {
	s := start(t, 1)
	l := newLockerAt(t, s.EtcdEndpoints(), Config{TTL: noticeTTL})
	if err := l.Healthy(); err != nil {
		t.Errorf("Healthy before the first lock: %v", err)
	}
	held := locktest.MustLock(t, l, "n")
	if err := l.Healthy(); err != nil {
		t.Errorf("Healthy with a lease: %v", err)
	}
	s.Revoke(t, s.Entries(t, "n")[0])
	sandboxtest.Await(t, held.Lost(), "the loss")
	sawError := false
	sandboxtest.Eventually(t, "another lease", func() bool { // without another Lock
		err := l.Healthy()
		if err != nil && !strings.Contains(err.Error(), "lease not found") {
			t.Fatalf("Healthy: %v, want etcd's answer that the lease has ended", err)
		}
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

func TestAKeyNamesItsOwner(t *testing.T) {
	s := start(t, 1)
	l := s.newLocker(t)
	asked := time.Now()
	held := locktest.MustLock(t, l, "n")
	answer, err := s.client.Get(t.Context(), s.Entries(t, "n")[0])
	if err != nil {
		t.Fatal(err)
	}
	var owner Owner
	if err := json.Unmarshal(answer.Kvs[0].Value, &owner); err != nil {
		t.Fatal(err)
	}
	if owner.Replica != "r" || owner.Host != "h" || owner.PID != 1 || owner.Since.Before(asked.Round(0)) {
		t.Errorf("owner %+v, want r, h, 1 and a time after %s", owner, asked)
	}
	if got, want := held.Token(), lock.Token(answer.Kvs[0].CreateRevision); got != want {
		t.Errorf("token %d, want the create revision %d", got, want)
	}
}

// TestWatchSurvivesCompaction cuts a waiter off while the queue changes and etcd
// compacts the changes away, so that the waiter's watch cannot be resumed.
func TestWatchSurvivesCompaction(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, strings.TrimPrefix(s.Etcd[0].Endpoint, "http://"))
	log := &logged{}
	cutOff := newLockerAt(t, []string{"http://" + link.Addr}, Config{Logger: slog.New(log)})
	here := s.newLocker(t)
	// The watch must be open before the link is cut.
	other := locktest.MustLock(t, cutOff, "other")
	s.awaitWatch(t, other, "other")
	locktest.MustUnlock(t, other)
	holder := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, cutOff, "n")
	sandboxtest.Eventually(t, "the waiter", func() bool { return len(s.Entries(t, "n")) == 2 })
	sandboxtest.Await(t, holder.Contended(), "Contended")

	link.Cut()
	locktest.MustUnlock(t, holder) // grants the lock to the waiter, which is cut off
	var last int64
	for range 10 {
		answer, err := s.client.Put(t.Context(), "other", "")
		if err != nil {
			t.Fatal(err)
		}
		last = answer.Header.Revision
	}
	if _, err := s.client.Compact(t.Context(), last, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	link.Heal()
	locktest.MustUnlock(t, waiter.Granted(t))
	if !log.has("required revision has been compacted") {
		t.Errorf("the watch was not compacted; logged: %q", log.lines())
	}
}

func TestAPartitionedHolderGivesUpInTime(t *testing.T) {
	s := start(t, 1)
	locktest.PartitionedHolder(t, s.newLocker(t), func() (lock.Locker, locktest.Link) {
		link := sandboxtest.NewLink(t, strings.TrimPrefix(s.Etcd[0].Endpoint, "http://"))
		return newLockerAt(t, []string{"http://" + link.Addr}, Config{TTL: testTTL}), link
	})
}

func TestManyNames(t *testing.T) {
	s := start(t, 1)
	// The time-outs of requests depend on the TTL, and there are a thousand at once.
	here, there := newLockerAt(t, s.EtcdEndpoints(), Config{TTL: patience}), newLockerAt(t, s.EtcdEndpoints(), Config{TTL: patience})
	locktest.ManyNames(t, here, there)
	for _, metric := range []string{"etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_watch_stream_total"} {
		sandboxtest.Eventually(t, metric+" to be 2, for two lockers", func() bool { return s.metric(t, metric) == 2 })
	}
	if keys := s.keys(t); len(keys) != 0 {
		t.Errorf("%d keys are left", len(keys))
	}
}

func TestAnUnusedWatchIsClosed(t *testing.T) {
	s := start(t, 1)
	l := s.newLocker(t)
	l.idle = 50 * time.Millisecond
	held := locktest.MustLock(t, l, "n")
	sandboxtest.Eventually(t, "the watch", func() bool { return s.metric(t, "etcd_debugging_mvcc_watcher_total") == 1 })
	l.mu.Lock()
	l.queues["n"].lastUsed = time.Time{}
	l.mu.Unlock()
	if l.dropIdle() {
		t.Error("dropIdle closed the watch while a lock is held")
	}
	locktest.MustUnlock(t, held)
	sandboxtest.Eventually(t, "the watch's end", func() bool { return s.metric(t, "etcd_debugging_mvcc_watcher_total") == 0 })
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

// TestCancelsAndRemovalsNeverLetTwoIn, and leave no key.
func TestCancelsAndRemovalsNeverLetTwoIn(t *testing.T) {
	s := start(t, 1)
	lockers := [2]*Locker{s.newLocker(t), s.newLocker(t)}
	locktest.CancelAndRemove(t, [2]lock.Locker{lockers[0], lockers[1]}, func(name string) error {
		keys := s.Entries(t, name)
		if len(keys) < 2 {
			return nil
		}
		// While the first key exists, the last one does not hold the lock.
		_, err := s.client.Txn(t.Context()).
			If(clientv3.Compare(clientv3.CreateRevision(keys[0]), ">", 0)).
			Then(clientv3.OpDelete(keys[len(keys)-1])).Commit()
		return err
	}, func(error) bool { return false })
	sandboxtest.Eventually(t, "all keys to go", func() bool { return len(s.keys(t)) == 0 })
	sandboxtest.Eventually(t, "all places and strays to go", func() bool {
		left := 0
		for _, l := range lockers {
			l.mu.Lock()
			for _, q := range l.queues {
				left += len(q.places)
			}
			left += len(l.lease.strays)
			l.mu.Unlock()
		}
		return left == 0
	})
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	s := start(t, 1)
	s.keys(t) // connects the operator's client
	ignored := goleak.IgnoreCurrent()
	client, err := newClient(s.EtcdEndpoints())
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(client)
	cfg.TTL = longTTL
	l, err := New(cfg)
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
	sandboxtest.Eventually(t, "the waiters", func() bool { return len(s.Entries(t, "held")) == 6 })
	cancel()
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	waiters.Wait()
	client.Close()
	leaks.None(t, ignored)
	leases, err := s.client.Leases(t.Context())
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases %v are left, %v", leases, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	client, err := newClient([]string{"127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, cfg := range []Config{
		{Prefix: "p/", TTL: time.Second},
		{Client: client, TTL: time.Second},
		{Client: client, Prefix: "p/"},
		{Client: client, Prefix: "p/", TTL: -time.Second},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) succeeded, want an error", cfg)
		}
		if _, err := NewTextbook(cfg); err == nil {
			t.Errorf("NewTextbook(%+v) succeeded, want an error", cfg)
		}
	}
}

// leader returns the index of the cluster's leader.
func (s *server) leader(t *testing.T) (leader int) {
	t.Helper()
	sandboxtest.Eventually(t, "a leader", func() bool {
		return slices.ContainsFunc(s.Etcd, func(node *sandbox.Etcd) bool {
			status, err := s.client.Status(t.Context(), node.Endpoint)
			if err != nil {
				t.Fatal(err)
			}
			leader = slices.Index(s.Etcd, node)
			return status.Leader == status.Header.MemberId
		})
	})
	return leader
}

// metric reads a gauge of the first node.
func (s *server) metric(t *testing.T, name string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Etcd[0].Endpoint+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true // otherwise goleak finds the connection
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// logged is a slog.Handler that records its lines.
type logged struct {
	mu   sync.Mutex
	text []string
}

func (h *logged) Enabled(context.Context, slog.Level) bool { return true }
func (h *logged) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *logged) WithGroup(string) slog.Handler            { return h }

func (h *logged) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	h.text = append(h.text, line)
	return nil
}

func (h *logged) lines() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.text)
}

func (h *logged) has(part string) bool {
	return slices.ContainsFunc(h.lines(), func(line string) bool { return strings.Contains(line, part) })
}

// behind is a member that has not applied the client's last tokens yet.
type behind struct {
	clientv3.Lease
	refusals atomic.Int32 // left
	renewed  chan struct{}
}

func (b *behind) KeepAliveOnce(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	if b.refusals.Add(-1) >= 0 {
		return nil, rpctypes.ErrInvalidAuthToken
	}
	answer, err := b.Lease.KeepAliveOnce(ctx, id)
	if err == nil {
		select {
		case b.renewed <- struct{}{}:
		default:
		}
	}
	return answer, err
}

// A token that a member does not know yet costs no renewal: two of them lose a lease.
func TestLeasesOutliveTokensThatAreNotKnownYet(t *testing.T) {
	s := start(t, 1)
	for name, open := range map[string]func(Config) (lock.Locker, error){
		"etcd":     func(cfg Config) (lock.Locker, error) { return New(cfg) },
		"etcd-try": func(cfg Config) (lock.Locker, error) { return NewTry(cfg) },
	} {
		t.Run(name, func(t *testing.T) {
			b := &behind{renewed: make(chan struct{}, 1)}
			b.refusals.Store(3)
			held := locktest.MustLock(t, opened(t, func(cfg Config) (lock.Locker, error) {
				b.Lease, cfg.Client.Lease = cfg.Client.Lease, b
				return open(cfg)
			}, s.EtcdEndpoints(), Config{TTL: noticeTTL}), name)
			select {
			case <-b.renewed:
			case <-held.Lost():
				t.Fatal("the lease was lost")
			}
			locktest.MustUnlock(t, held)
		})
	}
}
