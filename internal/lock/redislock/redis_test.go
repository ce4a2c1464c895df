package redislock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// patience bounds a call that must succeed.
const patience = 20 * time.Second

func TestConfigIsChecked(t *testing.T) {
	client, err := Open("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	noTimeout := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer func() { _ = closeAll([]*redis.Client{client, noTimeout}) }()
	one, three := []*redis.Client{client}, []*redis.Client{client, client, client}
	for _, cfg := range []Config{
		{Prefix: "p", TTL: testTTL},
		{Clients: three, Prefix: "p", TTL: testTTL},
		{Clients: []*redis.Client{noTimeout}, Prefix: "p", TTL: testTTL},
		{Clients: one, TTL: testTTL},
		{Clients: one, Prefix: "p", TTL: time.Millisecond},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) succeeded", cfg)
		}
	}
	for _, cfg := range []Config{
		{Prefix: "p", TTL: testTTL},
		{Clients: one, Prefix: "p", TTL: testTTL},
		{Clients: append(three, client), Prefix: "p", TTL: testTTL},
		{Clients: []*redis.Client{client, client, noTimeout}, Prefix: "p", TTL: testTTL},
		{Clients: three, TTL: testTTL},
		{Clients: three, Prefix: "p", TTL: time.Millisecond},
	} {
		if _, err := NewRedlock(cfg); err == nil {
			t.Errorf("NewRedlock(%+v) succeeded", cfg)
		}
	}
	if _, err := Open("redis://x:y"); err == nil {
		t.Error("Open accepted a malformed address")
	}
}

// With a TTL of a minute, only the announcement can wake the waiter in time. The waiter
// must not poll meanwhile.
func TestAReleaseWakesAWaiter(t *testing.T) {
	s := start(t, 1)
	here, there := newLocker(t, s.Address(), longTTL), newLocker(t, s.Address(), longTTL)
	held := locktest.MustLock(t, here, "n")
	waiter := locktest.LockAside(t, there, "n")
	s.subscribed(t, "n", 1)
	sandboxtest.Eventually(t, "300 ms without a command except the test's own", func() bool { // the waiter sends one after its subscription
		before := s.commands(t)
		time.Sleep(300 * time.Millisecond) // no event marks the absence of commands
		return s.commands(t)-before == 1
	})
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, waiter.Granted(t))
	s.subscribed(t, "n", 0)
}

// The name becomes free between the refusal and the subscription.
func TestAReleaseBeforeTheSubscriptionIsSeen(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL)
	if err := l.store.awaitChange(t.Context(), "free"); err != nil { // it is free, and no release will be announced
		t.Error(err)
	}
}

func TestAReleaseDuringADisconnectIsSeen(t *testing.T) {
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

func TestTokensRiseAfterTheServerHasLostItsData(t *testing.T) {
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

func TestARepeatedRequestIsOneGrant(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL)
	one, err := l.store.Try(t.Context(), "n", "owner")
	if err != nil {
		t.Fatal(err)
	}
	two, err := l.store.Try(t.Context(), "n", "owner")
	if err != nil || one != two {
		t.Errorf("the second request: token %d, %v; want %d", two, err, one)
	}
}

func TestALateRequestDoesNotChangeAnotherHoldersKey(t *testing.T) {
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
		for _, name := range []string{"n", "free"} {
			if err := change(t.Context(), name, "first"); !errors.Is(err, lock.ErrLost) {
				t.Errorf("%s of %s: %v, want %v", what, name, err, lock.ErrLost)
			}
		}
	}
	if left := time.Until(s.expiry(t, "n")); left < longTTL/2 {
		t.Errorf("the other holder's key expires in %s", left)
	}
	if entries := s.Entries(t, "n"); len(entries) != 1 || entries[0] != "n second" {
		t.Errorf("the holders are %q", entries)
	}
}

func TestLocksAreGrantedAgainAfterARestart(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL/10) // a renewal notices the loss
	lost := locktest.MustLock(t, l, "n")
	s.Kill(t)
	if _, err := l.TryLock(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), s.Address()) {
		t.Errorf("TryLock on a dead server: %v; want its address", err)
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
		t.Errorf("Revoke of a free name: %v", err)
	}
	if err := there.Revoke(t.Context(), "a/token"); err == nil || errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of an invalid name: %v", err)
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

// subscribed waits until n clients are subscribed to a name's releases.
func (s *servers) subscribed(t *testing.T, name string, n int64) {
	t.Helper()
	channel := testPrefix + name + "/released"
	sandboxtest.Eventually(t, fmt.Sprint(n, " subscriptions"), func() bool {
		answer, err := s.clients[0].PubSubNumSub(t.Context(), channel).Result()
		if err != nil {
			t.Fatal(err)
		}
		return answer[channel] == n
	})
}

// commands returns the number of commands that the server has run.
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
	t.Fatal("INFO has no total_commands_processed")
	return 0
}
