package limit

import (
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestParseIsStrict(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Limit{
		"0": {}, "100/10s": {100, 10 * time.Second}, "1/1s": {1, time.Second}, "5/1m30s": {5, 90 * time.Second}, "1000000/24h": {1_000_000, 24 * time.Hour},
	} {
		var got Limit
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", text, got, err, want)
		}
		if again, err := Parse(got.String()); err != nil || again != got {
			t.Errorf("%q was printed as %q, parsed as %v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "100", "100/", "/10s", "100/10", "0/10s", "-1/10s", "1.5/10s", "100/0s", "100/-1s", "100/10ms", "100/1500ms",
		"100/25h", "1000001/1s", "100/10s/1s", " 100/10s", "off"} {
		var got Limit
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was parsed as %v, want an error", text, got)
		}
	}
}

func TestBucketsRefill(t *testing.T) {
	t.Parallel()
	var l Limits
	l.Set(ByCustomer, Limit{50, time.Second})
	for {
		if v, _ := l.Take(ByCustomer, "ann"); !v.OK {
			break
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for v, _ := l.Take(ByCustomer, "ann"); !v.OK; v, _ = l.Take(ByCustomer, "ann") {
		if time.Now().After(deadline) {
			t.Fatal("no request was allowed again within 30s")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestLimitHoldsForConcurrentRequests(t *testing.T) {
	t.Parallel()
	var l Limits
	l.Set(ByAddress, Limit{100, 24 * time.Hour})
	var admitted atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if v, _ := l.Take(ByAddress, "192.0.2.1"); v.OK {
					admitted.Add(1)
				}
			}
		})
	}
	all.Wait()
	if got := admitted.Load(); got != 100 {
		t.Errorf("%d of 800 requests were allowed, want 100", got)
	}
}

func TestSetIsSafeDuringRequests(t *testing.T) {
	t.Parallel()
	var l Limits
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					l.Take(ByAddress, "192.0.2.1")
				}
			}
		})
	}
	for i := range 1000 {
		l.Set(ByAddress, Limit{i % 3, time.Second * time.Duration(min(i%3, 1))})
	}
	close(stop)
	all.Wait()
	one := Limit{1, time.Hour}
	l.Set(ByAddress, one)
	if v, limited := l.Take(ByAddress, "192.0.2.1"); !v.OK || !limited {
		t.Fatalf("the first request was refused or not limited: %+v", v)
	}
	l.Set(ByAddress, one)
	if v, _ := l.Take(ByAddress, "192.0.2.1"); v.OK || l.Get(ByAddress) != one {
		t.Error("setting the same limit again refilled the buckets")
	}
	l.Set(ByAddress, Limit{})
	if v, limited := l.Take(ByAddress, "192.0.2.1"); limited || l.Get(ByAddress) != (Limit{}) {
		t.Errorf("the limit was removed, but a request was counted: %+v", v)
	}
}

// A client that invents callers uses a bounded amount of memory.
func TestMemoryIsBounded(t *testing.T) {
	b := newBuckets(Limit{10, time.Second})
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	name := strings.Repeat("n", 245)
	for i := range 4 * maxCallers {
		b.bucket(fmt.Sprintf("%s%010d", name, i))
	}
	grown := heap() - before
	callers := 0
	for i := range b.shards {
		s := &b.shards[i]
		if s.order.Len() != len(s.callers) {
			t.Errorf("a shard has %d callers in the map and %d in order", len(s.callers), s.order.Len())
		}
		callers += len(s.callers)
	}
	if callers > maxCallers || callers < maxCallers/2 {
		t.Errorf("%d callers are remembered, want %d to %d", callers, maxCallers/2, maxCallers)
	}
	if grown > 48<<20 {
		t.Errorf("the longest names take %d MiB, want at most 48", grown>>20)
	}
	runtime.KeepAlive(b)
}

// Other callers cannot evict one that keeps calling.
func TestAnActiveCallerIsNotForgotten(t *testing.T) {
	t.Parallel()
	b := newBuckets(Limit{1, time.Hour})
	first := b.bucket("ann")
	for i := range 2 * maxCallers {
		b.bucket(strconv.Itoa(i))
		if i%100 == 0 && b.bucket("ann") != first {
			t.Fatalf("forgotten after %d other callers", i)
		}
	}
}

// Attempts that count are limited, also when many are made at once; others are not.
func TestAttemptsAreCountedOnlyIfTheyFail(t *testing.T) {
	t.Parallel()
	var l Limits
	if v := l.Try(AdminGuesses, "192.0.2.1", func() bool { return true }); !v.OK {
		t.Error("an attempt was refused without a limit")
	}
	l.Set(AdminGuesses, Limit{10, 24 * time.Hour})
	for range 100 {
		if v := l.Try(AdminGuesses, "192.0.2.1", func() bool { return false }); !v.OK || v.Left != 10 {
			t.Fatalf("an attempt that does not count: %+v", v)
		}
	}
	var made atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				l.Try(AdminGuesses, "192.0.2.1", func() bool { made.Add(1); runtime.Gosched(); return true })
			}
		})
	}
	all.Wait()
	if got := made.Load(); got != 10 {
		t.Errorf("%d of 800 attempts were made, want 10", got)
	}
	if v := l.Try(AdminGuesses, "192.0.2.1", func() bool { t.Error("an attempt was made"); return false }); v.OK || v.Wait != 8640 || v.Left != 0 {
		t.Errorf("got %+v, want a wait of a tenth of a day", v)
	}
	if v := l.Try(AdminGuesses, "192.0.2.2", func() bool { return true }); !v.OK || v.Left != 9 {
		t.Errorf("another caller: %+v", v)
	}
}
