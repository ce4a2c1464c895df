package redislock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"flashsale/internal/lock"
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
	held := mustLock(t, here, "n")
	waiter := lockAside(t, there, "n")
	s.subscribed(t, "n", 1)
	eventually(t, func() bool { // one look of the waiter's follows its subscription
		before := s.commands(t)
		time.Sleep(300 * time.Millisecond) // no event says that nothing happens
		return s.commands(t)-before == 1
	}, "a time in which no command comes but the test's own")
	mustUnlock(t, held)
	mustUnlock(t, granted(t, waiter))
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
	held := mustLock(t, here, "n")
	waiter := lockAside(t, there, "n")
	s.subscribed(t, "n", 1)
	link.Cut()
	s.subscribed(t, "n", 0)
	mustUnlock(t, held)
	link.Heal()
	mustUnlock(t, granted(t, waiter))
}

func TestTokensRiseAfterTheServerHasForgotten(t *testing.T) {
	s := start(t, 1)
	l := newLocker(t, s.Address(), longTTL)
	first := mustLock(t, l, "n")
	mustUnlock(t, first)
	if err := s.clients[0].FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	second := mustLock(t, l, "n")
	if second.Token() <= first.Token() {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	mustUnlock(t, second)
	third := mustLock(t, l, "n")
	if third.Token() <= second.Token() {
		t.Errorf("token %d after %d", third.Token(), second.Token())
	}
	mustUnlock(t, third)
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
	lost := mustLock(t, l, "n")
	s.Kill(t)
	if _, err := l.TryLock(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), s.Address()) {
		t.Errorf("TryLock of a dead server: %v; want its address", err)
	}
	waiter := lockAside(t, l, "m")
	if err := s.nodes[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, granted(t, waiter))
	await(t, lost.Lost(), "the loss")
	mustUnlock(t, mustLock(t, l, "n"))
}

func TestInspectAndRevoke(t *testing.T) {
	s := start(t, 1)
	here, there := newLocker(t, s.Address(), longTTL), newLocker(t, s.Address(), longTTL)
	began := time.Now().Truncate(time.Millisecond)
	one, two := mustLock(t, here, "b*"), mustLock(t, here, "a")
	mustUnlock(t, mustLock(t, here, "free"))
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
	waiter := lockAside(t, there, "a")
	s.subscribed(t, "a", 1)
	if err := there.Revoke(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	mustUnlock(t, granted(t, waiter))
	if err := two.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock after Revoke: %v", err)
	}
	if err := there.Revoke(t.Context(), "a"); !errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of what nobody holds: %v", err)
	}
	if err := there.Revoke(t.Context(), "a/token"); err == nil || errors.Is(err, lock.ErrNotHeld) {
		t.Errorf("Revoke of a wrong name: %v", err)
	}
	mustUnlock(t, one)
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
	eventually(t, func() bool {
		answer, err := s.clients[0].PubSubNumSub(t.Context(), channel).Result()
		if err != nil {
			t.Fatal(err)
		}
		return answer[channel] == n
	}, "the subscriptions")
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

// attempt is a Lock that runs in a goroutine.
type attempt struct {
	done chan struct{}
	held lock.Held
	err  error
}

func lockAside(t *testing.T, l lock.Locker, name string) *attempt {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a := &attempt{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.held, a.err = l.Lock(ctx, name)
	}()
	t.Cleanup(func() {
		cancel()
		<-a.done
	})
	return a
}

func granted(t *testing.T, a *attempt) lock.Held {
	t.Helper()
	await(t, a.done, "a grant")
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.held
}

func mustLock(t *testing.T, l lock.Locker, name string) lock.Held {
	t.Helper()
	return granted(t, lockAside(t, l, name))
}

func mustUnlock(t *testing.T, held lock.Held) {
	t.Helper()
	if err := held.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, event <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(patience):
		t.Fatalf("waited %s in vain for %s", patience, what)
	}
}

func eventually(t *testing.T, reached func() bool, what string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}
