package etcdwatch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"flashsale/internal/etcdwatch"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) { sandboxtest.Main(m, sandbox.Config{EtcdNodes: 1}, &servers) }

func newClient(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{endpoint}, Logger: zap.NewNop(),
		DialTimeout: time.Second, DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// follower copies the keys under a prefix by a Watch.
type follower struct {
	client *clientv3.Client
	prefix string

	mu       sync.Mutex
	keys     map[string]string
	revision int64
	lists    int
	broken   []error
	tick     error // what the next Tick returns
}

// start runs the Watch until the returned stop is called.
func (f *follower) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	watch := etcdwatch.Watch{
		Client: f.client, Prefix: f.prefix, List: f.list, Apply: f.apply, Interval: 10 * time.Millisecond,
		Tick: func(context.Context, time.Duration) (err error) {
			f.locked(func() { err, f.tick = f.tick, nil })
			return err
		},
		Broken: func(err error) { f.locked(func() { f.broken = append(f.broken, err) }) },
	}
	go func() { defer close(ended); watch.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); sandboxtest.Await(t, ended, "the end of Run") })
	t.Cleanup(stop)
	return stop
}

func (f *follower) locked(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *follower) list(ctx context.Context, revision int64) error {
	answer, err := f.client.Get(ctx, f.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	if answer.Header.Revision < revision {
		return fmt.Errorf("listed revision %d, and the watch begins at %d", answer.Header.Revision, revision)
	}
	f.locked(func() {
		f.keys, f.revision = map[string]string{}, answer.Header.Revision
		for _, kv := range answer.Kvs {
			f.keys[string(kv.Key)] = string(kv.Value)
		}
		f.lists++
	})
	return nil
}

func (f *follower) apply(events []*clientv3.Event) {
	f.locked(func() {
		for _, event := range events {
			switch {
			case event.Kv.ModRevision <= f.revision:
			case event.Type == clientv3.EventTypeDelete:
				delete(f.keys, string(event.Kv.Key))
			default:
				f.keys[string(event.Kv.Key)] = string(event.Kv.Value)
			}
		}
	})
}

func (f *follower) has(want map[string]string) (equal bool) {
	f.locked(func() { equal = maps.Equal(f.keys, want) })
	return equal
}

func (f *follower) listed() (n int) {
	f.locked(func() { n = f.lists })
	return n
}

// TestNoChangeIsMissed changes keys all the time, while the watch is cut off, and while
// what it missed is compacted.
func TestNoChangeIsMissed(t *testing.T) {
	etcd := newClient(t, servers.Etcd[0].Endpoint)
	link := sandboxtest.NewLink(t, strings.TrimPrefix(servers.Etcd[0].Endpoint, "http://"))
	f := &follower{client: newClient(t, "http://"+link.Addr), prefix: t.Name() + "/"}
	f.start(t)
	want := map[string]string{}
	var last int64
	change := func(from, to int) {
		for i := from; i < to; i++ {
			key, value := fmt.Sprint(f.prefix, i%7), fmt.Sprint(i)
			put, err := etcd.Put(t.Context(), key, value)
			if err != nil {
				t.Fatal(err)
			}
			want[key], last = value, put.Header.Revision
		}
		key := fmt.Sprint(f.prefix, from%7)
		if _, err := etcd.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		delete(want, key)
	}
	change(0, 100) // while the watch opens
	sandboxtest.Eventually(t, "all changes", func() bool { return f.has(want) })
	for round := range 3 {
		before := f.listed()
		link.Cut()
		change(100*round, 100*round+50)
		if _, err := etcd.Compact(t.Context(), last, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		link.Heal()
		change(100*round+50, 100*round+100)
		sandboxtest.Eventually(t, "all changes after a compaction", func() bool { return f.has(want) })
		if f.listed() == before {
			t.Error("the compaction did not lead to a new list")
		}
	}
}

func TestErrorOfTickOpensTheWatchAgain(t *testing.T) {
	f := &follower{client: newClient(t, servers.Etcd[0].Endpoint), prefix: t.Name() + "/"}
	f.start(t)
	sandboxtest.Eventually(t, "the first list", func() bool { return f.listed() >= 1 })
	stale := errors.New("stale")
	f.locked(func() { f.tick = stale })
	// On a busy machine etcd may be silent for so long that the watch breaks by itself.
	calls := func() (n int) {
		f.locked(func() {
			for _, err := range f.broken {
				if errors.Is(err, stale) {
					n++
				}
			}
		})
		return n
	}
	sandboxtest.Eventually(t, "the error and a list after it", func() bool { return calls() > 0 && f.listed() >= 2 })
	if n := calls(); n != 1 {
		t.Errorf("Broken was called %d times with %v, want once", n, stale)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	client := newClient(t, servers.Etcd[0].Endpoint)
	f := &follower{client: client, prefix: t.Name() + "/"}
	others := goleak.IgnoreCurrent()
	stop := f.start(t)
	sandboxtest.Eventually(t, "the first list", func() bool { return f.listed() >= 1 })
	var before int // how often the watch broke by itself, as on a busy machine
	f.locked(func() { before = len(f.broken) })
	stop()
	_ = client.Close()
	leaks.None(t, others)
	if ending := f.broken[before:]; len(ending) != 0 {
		t.Errorf("Broken was called with %v at the end", ending)
	}
}
