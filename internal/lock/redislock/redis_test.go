package redislock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func TestConfigIsChecked(t *testing.T) {
	client, err := Open("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	careless := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer func() { _ = closeAll([]*redis.Client{client, careless}) }()
	for _, cfg := range []Config{
		{Prefix: "p", TTL: testTTL},
		{Client: careless, Prefix: "p", TTL: testTTL},
		{Client: client, TTL: testTTL},
		{Client: client, Prefix: "p", TTL: time.Millisecond},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) was accepted", cfg)
		}
	}
	three := []*redis.Client{client, client, client}
	for _, cfg := range []RedlockConfig{
		{Prefix: "p", TTL: testTTL},
		{Clients: []*redis.Client{client}, Prefix: "p", TTL: testTTL},
		{Clients: append(three, client), Prefix: "p", TTL: testTTL},
		{Clients: []*redis.Client{client, client, careless}, Prefix: "p", TTL: testTTL},
		{Clients: three, TTL: testTTL},
		{Clients: three, Prefix: "p", TTL: time.Millisecond},
	} {
		if _, err := NewRedlock(cfg); err == nil {
			t.Errorf("NewRedlock(%+v) was accepted", cfg)
		}
	}
	if _, err := Open("redis://x:y"); err == nil {
		t.Error("a wrong address was accepted")
	}
}

// TestAWaiterIsToldOfARelease: with a TTL of a minute, nothing else could wake it
// in time. And nothing asks meanwhile.
func TestAWaiterIsToldOfARelease(t *testing.T) {
	s := start(t, 1)
	here, there := newLocker(t, s.Address(), longTTL), newLocker(t, s.Address(), longTTL)
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	s.subscribed(t, "n", 1)
	sandboxtest.Eventually(t, "a time in which no command comes but the test's own", func() bool { // one look of the waiter's follows its subscription
		before := s.commands(t)
		time.Sleep(300 * time.Millisecond) // no event says that nothing happens
		return s.commands(t)-before == 1
	})
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, waiter.Granted(t))
	s.subscribed(t, "n", 0)
}

// TestAReleaseBeforeTheSubscriptionIsSeen: it comes between the refusal and the
// moment from which the server tells.
func TestAReleaseBeforeTheSubscriptionIsSeen(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL)
	if err := l.changed(t.Context(), "free"); err != nil { // it is free, and nobody will say so
		t.Error(err)
	}
}

// TestABrokenSubscriptionIsMadeUpFor: the release falls into the gap.
func TestABrokenSubscriptionIsMadeUpFor(t *testing.T) {
	s := start(t, 1)
	link := sandboxtest.NewLink(t, s.Address())
	here, there := newLocker(t, s.Address(), longTTL), newLocker(t, link.Addr, longTTL)
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	s.subscribed(t, "n", 1)
	link.Cut()
	s.subscribed(t, "n", 0)
	locktest.MustUnlock(t, held)
	link.Heal()
	locktest.MustUnlock(t, waiter.Granted(t))
}

func TestTokensRiseAfterTheServerHasForgotten(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL)
	first := locktest.MustLock(t, l, "n")
	locktest.MustUnlock(t, first)
	if err := s.clients[0].FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	second := locktest.MustLock(t, l, "n")
	if second.Token() <= first.Token() {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	locktest.MustUnlock(t, second)
	third := locktest.MustLock(t, l, "n")
	if third.Token() <= second.Token() {
		t.Errorf("token %d after %d", third.Token(), second.Token())
	}
	locktest.MustUnlock(t, third)
}

func TestARequestThatWasSentTwiceIsOneGrant(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL)
	one, err := l.store.Try(t.Context(), "n", "owner")
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.store.Try(t.Context(), "n", "owner")
	if err != nil || one != two {
		t.Errorf("the second time: token %d, %v; want %d", two, err, one)
	}
}

func TestALaterHoldersKeyIsNeverTouched(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL/4)
	if _, err := l.store.Try(t.Context(), "n", "second"); err != nil {
		t.Fatal(err)
	}
	if err := s.clients[0].PExpire(t.Context(), testPrefix+"n", longTTL).Err(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(context.Context, string, string) error{
		"renew": l.store.Renew, "release": l.store.Release,
	} {
		for _, name := range []string{"n", "nobody's"} {
			if err := change(t.Context(), name, "first"); !errors.Is(err, lock.ErrLost) {
				t.Errorf("%s of %s: %v, want %v", what, name, err, lock.ErrLost)
			}
		}
	}
	if left := time.Until(s.expiry(t, "n")); left < longTTL/2 {
		t.Errorf("the later holder has only %s left", left)
	}
	if places := s.Places(t, "n"); len(places) != 1 || places[0] != "n second" {
		t.Errorf("places %q", places)
	}
}

func TestLocksAreGrantedAgainAfterARestart(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL/10) // it hears of the loss as it renews
	lost := locktest.MustLock(t, l, "n")
	s.Kill(t)
	if _, err := l.TryLock(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), s.Address()) {
		t.Errorf("TryLock of a dead server: %v; want its address", err)
	}
	waiter := locktest.LockAside(t, l, "m")
	if err := s.nodes[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	locktest.MustUnlock(t, waiter.Granted(t))
	sandboxtest.Await(t, lost.Lost(), "the loss")
	locktest.MustUnlock(t, locktest.MustLock(t, l, "n"))
}

func TestInspectAndRevoke(t *testing.T) {
	s := start(t, 1)
	here, there := newLocker(t, s.Address(), longTTL), newLocker(t, s.Address(), longTTL)
	began := time.Now().Truncate(time.Millisecond)
	one, two := locktest.MustLock(t, here, "b*"), locktest.MustLock(t, here, "a")
	locktest.MustUnlock(t, locktest.MustLock(t, here, "free"))
	infos, err := there.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(infos) != 2 || infos[0].Name != "a" || infos[1].Name != "b*" ||
		infos[0].Token != two.Token() || infos[1].Token != one.Token() {
		t.Fatalf("locks %+v", infos)
	}
	if i := infos[0]; i.Holder != testOwner || i.Replica != "r" || i.Since.Before(began) || i.Since.After(time.Now()) {
		t.Errorf("lock %+v", i)
	}
	waiter := locktest.LockAside(t, there, "a")
	s.subscribed(t, "a", 1)
	if err := there.Revoke(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	locktest.MustUnlock(t, waiter.Granted(t))
	if err := two.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after Revoke: %v", err)
	}
	if err := there.Revoke(t.Context(), "a"); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of what nobody holds: %v", err)
	}
	if err := there.Revoke(t.Context(), "a/token"); err == nil || errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of a wrong name: %v", err)
	}
	locktest.MustUnlock(t, one)
}

func TestAWrongPasswordEndsLock(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), testTTL)
	if err := s.clients[0].ConfigSet(t.Context(), "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := l.Lock(ctx, "n"); !redis.IsAuthError(err) {
		t.Errorf("Lock: %v", err)
	}
}

// subscribed waits until so many listen for a name's release.
func (s *servers) subscribed(t *testing.T, name string, n int64) {
	t.Helper()
	channel := testPrefix + name + "/released"
	sandboxtest.Eventually(t, "the subscriptions", func() bool {
		answer, err := s.clients[0].PubSubNumSub(t.Context(), channel).Result()
		if err != nil {
			t.Fatal(err)
		}
		return answer[channel] == n
	})
}

// commands is how many the server has run until now.
func (s *servers) commands(t *testing.T) int64 {
	t.Helper()
	stats, err := s.clients[0].InfoMap(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range stats["Stats"] {
		if key == "total_commands_processed" {
			n, err := redis.NewStringResult(value, nil).Int64()
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no count of commands")
	return 0
}
