package memcachedlock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// patience bounds a call that must succeed.
const patience = 20 * time.Second

func TestConfigIsChecked(t *testing.T) {
	good := testConfig("127.0.0.1:1")
	for name, change := range map[string]func(*Config){
		"no address":     func(c *Config) { c.Address = "" },
		"no prefix":      func(c *Config) { c.Prefix = "" },
		"a space":        func(c *Config) { c.Prefix = "a b/" },
		"a long prefix":  func(c *Config) { c.Prefix = strings.Repeat("p", maxPrefix+1) },
		"a short TTL":    func(c *Config) { c.TTL = time.Millisecond },
		"a TTL too long": func(c *Config) { c.TTL = 30 * 24 * time.Hour },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("New accepts %s", name)
		}
	}
}

// Also for names with characters that a key must not contain.
func TestKeysAreValidAndDiffer(t *testing.T) {
	s := &store{prefix: testPrefix}
	long := strings.Repeat("n", lock.MaxName)
	seen := map[string]string{}
	for _, name := range []string{"n", "N", "%6E", "a b", "a%20b", "ü", "\x01\r\n", long, long[1:], strings.Repeat(" ", lock.MaxName)} {
		key := s.key(name)
		if len(key) > maxKey || strings.ContainsAny(key, " \r\n\x01") {
			t.Errorf("%q has the invalid key %q", name, key)
		}
		if other, taken := seen[key]; taken {
			t.Errorf("%q and %q have the same key %q", name, other, key)
		}
		seen[key] = name
	}
}

// The server counts whole seconds, and its clock may be about to tick.
func TestAnItemOutlivesTheTTL(t *testing.T) {
	for ttl, want := range map[time.Duration]int32{
		time.Second: 2, 1500 * time.Millisecond: 3, 2 * time.Second: 3, time.Minute: 61,
	} {
		if got := (&store{ttl: ttl}).seconds(); got != want {
			t.Errorf("TTL %s: %d seconds, want %d", ttl, got, want)
		}
	}
}

// An evicted holder renews and releases. The next holder comes before its get, or between
// its get and its cas.
func TestALateRequestDoesNotChangeAnotherHoldersItem(t *testing.T) {
	s := start(t, sandbox.MemcachedConfig{})
	link := sandboxtest.NewLink(t, s.Addr)
	cfg := testConfig(link.Addr)
	cfg.TTL = time.Minute // a request may take a sixth of it
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for what, change := range map[string]func(context.Context, string, string) error{
		"renew": l.store.Renew, "release": l.store.Release,
	} {
		for _, between := range []bool{false, true} {
			name := fmt.Sprint(what, between)
			if _, err := l.store.Try(t.Context(), name, "first"); err != nil {
				t.Fatal(err)
			}
			changed := make(chan error, 1)
			begin := func() { go func() { changed <- change(t.Context(), name, "first") }() }
			release := func() {}
			if between {
				release = link.Hold()
				before := s.gets(t)
				begin()
				sandboxtest.Eventually(t, "the get of the item", func() bool { return s.gets(t) > before })
			}
			if err := s.client.Delete(s.store.key(name)); err != nil {
				t.Fatal(err)
			}
			if err := s.client.Add(&memcache.Item{Key: s.store.key(name), Value: value(name, "second")}); err != nil {
				t.Fatal(err)
			}
			release()
			if !between {
				begin()
			}
			if err := <-changed; !errors.Is(err, lock.ErrLost) {
				t.Errorf("%s: %v, want %v", name, err, lock.ErrLost)
			}
			if err := change(t.Context(), "free", "first"); !errors.Is(err, lock.ErrLost) {
				t.Errorf("%s of a free name: %v, want %v", what, err, lock.ErrLost)
			}
			if places := s.Entries(t, name); len(places) != 1 || places[0] != string(value(name, "second")) {
				t.Errorf("after %s: the items are %q", name, places)
			}
		}
	}
}

// gets returns the number of gets that the server has served. The client cannot read it.
func (s *server) gets(t *testing.T) (n int) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "stats\r\n")
	for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != "END"; {
		if _, err := fmt.Sscanf(lines.Text(), "STAT cmd_get %d", &n); err == nil {
			return n
		}
	}
	t.Fatal("stats has no cmd_get")
	return 0
}

// Only a renewal notices an eviction.
func TestAnEvictedGrantIsLost(t *testing.T) {
	s := start(t, sandbox.MemcachedConfig{Megabytes: 2})
	cfg := testConfig(s.Addr)
	cfg.TTL = 18 * time.Second // each renewal makes it the most recently used item
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	held := locktest.MustLock(t, l, "n")
	// Only items of the same size class can evict it.
	item := memcache.Item{Value: make([]byte, len(s.Entries(t, "n")[0])+len(testPrefix))}
	for i := 0; l.hasItem(t, "n"); i++ {
		if i == 50 {
			t.Fatal("half a million items did not evict the lock")
		}
		for j := range 10_000 {
			item.Key = fmt.Sprintf("%d-%d", i, j)
			if err := s.client.Set(&item); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := locktest.MustLock(t, newLocker(t, s.Addr), "n") // now there are two holders
	sandboxtest.Await(t, held.Lost(), "the loss")
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
	}
	locktest.MustUnlock(t, next)
}

// hasItem reports whether the server has a name's item. A get would keep the item from being
// evicted.
func (l *Locker) hasItem(t *testing.T, name string) bool {
	t.Helper()
	keys, err := l.store.keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(keys, l.store.key(name))
}

func TestARefusalNamesTheHolder(t *testing.T) {
	s := start(t, sandbox.MemcachedConfig{})
	held := locktest.MustLock(t, newLocker(t, s.Addr), "n")
	_, err := newLocker(t, s.Addr).TryLock(t.Context(), "n")
	var refusal *lock.HeldError
	if !errors.As(err, &refusal) || refusal.Holder != testOwner {
		t.Errorf("TryLock: %v", err)
	}
	locktest.MustUnlock(t, held)
}

func TestInspectAndRevoke(t *testing.T) {
	s := start(t, sandbox.MemcachedConfig{})
	here, there := newLocker(t, s.Addr), newLocker(t, s.Addr)
	long := strings.Repeat("n", lock.MaxName)
	began := time.Now().Truncate(time.Millisecond)
	one, two := locktest.MustLock(t, here, long), locktest.MustLock(t, here, "a b%")
	locktest.MustUnlock(t, locktest.MustLock(t, here, "free"))
	if err := s.client.Set(&memcache.Item{Key: "other"}); err != nil {
		t.Fatal(err)
	}
	infos, err := there.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 2 || infos[0].Name != "a b%" || infos[1].Name != long {
		t.Fatalf("locks %+v", infos)
	}
	if i := infos[0]; i.Holder != testOwner || i.Replica != "r" || i.Since.Before(began) || i.Since.After(time.Now()) {
		t.Errorf("lock %+v", i)
	}
	if err := there.Revoke(t.Context(), long); err != nil {
		t.Error(err)
	}
	sandboxtest.Await(t, one.Lost(), "the loss")
	if err := there.Revoke(t.Context(), long); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of a free name: %v", err)
	}
	locktest.MustUnlock(t, two)
}

func TestLocksAreGrantedAgainAfterARestart(t *testing.T) {
	s := start(t, sandbox.MemcachedConfig{})
	l := newLocker(t, s.Addr)
	lost := locktest.MustLock(t, l, "n")
	s.Process.Kill()
	if _, err := l.TryLock(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), s.Addr) {
		t.Errorf("TryLock on a dead server: %v; want its address", err)
	}
	if _, err := l.Inspect(t.Context()); err == nil {
		t.Error("Inspect of a dead server succeeded")
	}
	if err := s.Process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	locktest.MustUnlock(t, locktest.MustLock(t, l, "m"))
	sandboxtest.Await(t, lost.Lost(), "the loss")
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

// noticeTTL is longer than the pauses of a process on a busy machine. A holder notices a loss
// within a third of it.
const noticeTTL = 9 * time.Second

func newLocker(tb testing.TB, address string) *Locker {
	tb.Helper()
	cfg := testConfig(address)
	cfg.TTL = noticeTTL
	l, err := New(cfg)
	return locktest.Opened(tb, l, err)
}
