package settings_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/limit"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/settings"
)

func with(change func(*settings.Values)) settings.Values {
	v := flags
	change(&v)
	return v
}

func quantum(d time.Duration) settings.Values {
	return with(func(v *settings.Values) { v.Quantum = d })
}

// within is how soon a change must apply on every replica.
const within = time.Second

func TestEveryReplicaAppliesAChangeWithinASecond(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	var replicas []*replica
	for range 3 {
		r := startReplica(t, store)
		r.await(t, flags)
		replicas = append(replicas, r)
	}
	var slowest [3]time.Duration // on a busy machine one may be late, but not all
	for i := range slowest {
		if slowest[i] = changeAll(t, store, replicas); slowest[i] <= within {
			return
		}
	}
	t.Errorf("the slowest changes took %s, want at most %s", slowest, within)
}

// changeAll changes each setting and reverts it. It returns the longest time until a
// change applied on all replicas.
func changeAll(t *testing.T, store settings.Store, replicas []*replica) (slowest time.Duration) {
	t.Helper()
	for _, change := range []struct {
		name, value string
		want        settings.Values
	}{
		{"quantum", "20ms", quantum(20 * time.Millisecond)},
		{"log-level", "debug", with(func(v *settings.Values) { v.Quantum, v.LogLevel = 20*time.Millisecond, slog.LevelDebug })},
		{"quantum", "", with(func(v *settings.Values) { v.LogLevel = slog.LevelDebug })},
		{"log-level", "", flags},
		{"rate-limit-customer", "5/10s", with(func(v *settings.Values) { v.ByCustomer = limit.Limit{Requests: 5, Window: 10 * time.Second} })},
		{"rate-limit-customer", "", flags},
		{"rate-limit-address", "7/1s", with(func(v *settings.Values) { v.ByAddress = limit.Limit{Requests: 7, Window: time.Second} })},
		{"rate-limit-address", "", flags},
	} {
		began := time.Now()
		if change.value == "" {
			e, err := store.Get(t.Context(), change.name)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Delete(t.Context(), change.name, e.Revision); err != nil {
				t.Fatal(err)
			}
		} else {
			set(t, store, change.name, change.value)
		}
		for _, r := range replicas {
			r.await(t, change.want)
		}
		took := time.Since(began)
		t.Logf("%s=%q applied on %d replicas after %s", change.name, change.value, len(replicas), took.Round(time.Microsecond))
		slowest = max(slowest, took)
	}
	return slowest
}

func TestReplicaStartsWithTheValuesInEtcd(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	set(t, store, "quantum", "7ms")
	r := startReplica(t, store)
	if got := r.next(t); got != quantum(7*time.Millisecond) {
		t.Errorf("the first values are %+v, want a quantum of 7ms", got)
	}
}

func TestInvalidValueIsIgnoredAndReported(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	set(t, store, "quantum", "20ms")
	r := startReplica(t, store)
	r.await(t, quantum(20*time.Millisecond))
	for _, bad := range []struct{ value, why string }{
		{"soon", `quantum: "soon" is not a duration`}, {"1h", "quantum: 1h0m0s is not between 1ms and 1s"},
		{"", `quantum: "" is not a duration`}, {"-5ms", "quantum: -5ms is not between"},
		{strings.Repeat("x", 100_000), `quantum: "xxxxxxxx`},
	} {
		put(t, store, "quantum", bad.value)
		r.awaitReport(t, bad.why)
	}
	if got := r.Report(); len(got) > 200 {
		t.Errorf("the report has %d bytes, want at most 200", len(got))
	}
	put(t, store, "qantum", "5ms") // not the name of a setting
	r.awaitReport(t, `qantum: there is no setting "qantum"`)
	// Another setting still changes, and the last valid value stays.
	set(t, store, "log-level", "warn")
	want := with(func(v *settings.Values) { v.Quantum, v.LogLevel = 20*time.Millisecond, slog.LevelWarn })
	if got := r.next(t); got != want {
		t.Errorf("the values are %+v, want %+v", got, want)
	}
	if n := r.log.count("is not valid"); n != 6 {
		t.Errorf("%d lines in the log for 6 invalid values", n)
	}
	set(t, store, "quantum", "30ms")
	r.await(t, with(func(v *settings.Values) { v.Quantum, v.LogLevel = 30*time.Millisecond, slog.LevelWarn }))
	if err := store.Delete(t.Context(), "qantum", revisionOf(t, store, "qantum")); err != nil {
		t.Fatal(err)
	}
	r.awaitReport(t, "")
}

// Any number of keys that are not settings prevents neither a replica from starting, nor
// a setting among them from being applied.
func TestUnknownKeysAreIgnored(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	const many = 250
	putUnknown := func(prefix string) {
		for from := 0; from < many; from += 50 { // a transaction may have 128 operations
			var puts []clientv3.Op
			for i := range 50 {
				puts = append(puts, clientv3.OpPut(fmt.Sprintf("%s%s%03d", store.Prefix, prefix, from+i), strings.Repeat("x", 1000)))
			}
			if _, err := store.Client.Txn(t.Context()).Then(puts...).Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	putUnknown("a") // these sort before all settings
	set(t, store, "quantum", "20ms")
	r := startReplica(t, store)
	r.await(t, quantum(20*time.Millisecond))
	r.awaitReport(t, `ignored: a000: there is no setting "a000"`)
	putUnknown("b") // while it runs
	put(t, store, "quantum", "soon")
	r.awaitReport(t, `ignored: quantum: "soon" is not a duration`)
	set(t, store, "log-level", "warn")
	r.await(t, with(func(v *settings.Values) { v.Quantum, v.LogLevel = 20*time.Millisecond, slog.LevelWarn }))
	if got := r.Report(); !strings.HasSuffix(got, "; and others") || len(got) > 2000 {
		t.Errorf("the report has %d bytes: %s", len(got), got)
	}
	if n := r.log.count("is not valid"); n > 110 {
		t.Errorf("the log has %d lines of ignored keys, want at most 110", n)
	}
	listing, err := store.List(t.Context())
	if err != nil || len(listing.Entries) != 102 || !listing.More {
		t.Errorf("the list has %d entries, more %t, error %v; want 2 settings and 100 of %d other keys", len(listing.Entries), listing.More, err, 2*many)
	}

	if _, err := store.Client.Delete(t.Context(), store.Prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	r.await(t, flags)
	r.awaitReport(t, "")
}

func revisionOf(t *testing.T, store settings.Store, name string) int64 {
	t.Helper()
	e, err := store.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return e.Revision
}

func TestSetRefusesInvalidValues(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	for _, bad := range []struct{ name, value, why string }{
		{"quantum", "50", "is not a duration"}, {"quantum", "2s", "is not between 1ms and 1s"},
		{"log-level", "loud", "one of debug, info, warn and error"}, {"speed", "1", "log-level, quantum, rate-limit"},
		{"rate-limit-customer", "many", "must be REQUESTS/WINDOW"}, {"rate-limit-address", strings.Repeat("1", 99), "is not a limit"},
	} {
		if _, err := store.Set(t.Context(), bad.name, bad.value, 0); err == nil || !strings.Contains(err.Error(), bad.why) {
			t.Errorf("%s=%s: got %v, want %q", bad.name, bad.value, err, bad.why)
		}
	}
	if listing, err := store.List(t.Context()); err != nil || len(listing.Entries) != 0 || listing.More {
		t.Errorf("etcd has %+v, %v", listing, err)
	}
}

func TestTwoOperatorsDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	store := newStore(t)
	first := revisionOf(t, store, "quantum")
	var done atomic.Int32
	var both sync.WaitGroup
	for _, value := range []string{"10ms", "20ms"} {
		both.Go(func() {
			_, err := store.Set(t.Context(), "quantum", value, first)
			if err == nil {
				done.Add(1)
			} else if !errors.Is(err, settings.ErrChanged) {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if done.Load() != 1 {
		t.Errorf("%d of two writes succeeded", done.Load())
	}
	if err := store.Delete(t.Context(), "quantum", first); !errors.Is(err, settings.ErrChanged) {
		t.Errorf("delete at an old revision %d: got %v, want ErrChanged", first, err)
	}
}

func TestFlagsHaveTheSameBounds(t *testing.T) {
	t.Parallel()
	if err := flags.Check(); err != nil {
		t.Error(err)
	}
	if err := quantum(time.Hour).Check(); err == nil || !strings.Contains(err.Error(), "--quantum: 1h0m0s is not between") {
		t.Errorf("got %v", err)
	}
	for _, s := range settings.All() {
		if s.Help == "" {
			t.Errorf("setting %s has no help", s.Name)
		}
	}
}

// A change during a restart of etcd, compacted before the replica saw it, applies when
// etcd is back.
func TestChangeIsSeenAfterARestartAndACompaction(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	store := newStore(t, own.EtcdEndpoints()...)
	link := sandboxtest.NewLink(t, strings.TrimPrefix(own.Etcd[0].Endpoint, "http://"))
	near := newStore(t, link.Addr)
	near.Prefix = store.Prefix
	r := startReplica(t, near)
	r.await(t, flags)
	set(t, store, "quantum", "20ms")
	r.await(t, quantum(20*time.Millisecond))

	link.Cut() // the replica sees none of the following changes
	r.awaitReport(t, "the watch of etcd is broken")
	var last int64
	for _, value := range []string{"30ms", "40ms", "60ms"} {
		set(t, store, "quantum", value)
		last = revisionOf(t, store, "quantum")
	}
	if _, err := store.Client.Compact(t.Context(), last, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if err := own.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	link.Heal()
	r.await(t, quantum(60*time.Millisecond))
	r.awaitReport(t, "")

	// A deletion that no watch sees.
	link.Cut()
	r.awaitReport(t, "the watch of etcd is broken")
	if err := store.Delete(t.Context(), "quantum", last); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Client.Compact(t.Context(), last+1); err != nil {
		t.Fatal(err)
	}
	link.Heal()
	r.await(t, flags)
}

// A node that hangs with open connections does not end its watch: the list detects it.
func TestHungNodeIsDetected(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	store := newStore(t, own.EtcdEndpoints()...)
	r := startReplica(t, store)
	set(t, store, "quantum", "10ms")
	r.await(t, quantum(10*time.Millisecond)) // the watch is open
	sandboxtest.Pause(t, own.Etcd[0].Process)
	r.awaitReport(t, "the watch of etcd is broken")
	sandboxtest.Resume(t, own.Etcd[0].Process)
	set(t, store, "quantum", "20ms")
	r.await(t, quantum(20*time.Millisecond))
	r.awaitReport(t, "")
}
