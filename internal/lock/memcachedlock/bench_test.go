package memcachedlock

import (
	"slices"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sandbox"
)

// BenchmarkHandover measures the time from one holder to the next: from just before Unlock
// until the waiter's Lock has returned. Two holders with separate clients take turns.
//
//	go test ./internal/lock/memcachedlock -run '^$' -bench Handover -benchtime 200x
func BenchmarkHandover(b *testing.B) {
	const name = "n"
	s := start(b, sandbox.MemcachedConfig{})
	lockers := []*Locker{newLocker(b, s.Addr), newLocker(b, s.Addr)}
	held, err := lockers[0].Lock(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	var all []time.Duration
	for i := 1; b.Loop(); i++ {
		granted := make(chan time.Time, 1)
		var next lock.Held
		var err error
		go func() {
			next, err = lockers[i%2].Lock(b.Context(), name)
			granted <- time.Now()
		}()
		time.Sleep(10 * time.Millisecond) // the server does not show a waiter
		began := time.Now()
		if err := held.Unlock(b.Context()); err != nil {
			b.Fatal(err)
		}
		all = append(all, (<-granted).Sub(began))
		if err != nil {
			b.Fatal(err)
		}
		held = next
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2])/float64(time.Millisecond), "p50-ms")
	if err := held.Unlock(b.Context()); err != nil {
		b.Fatal(err)
	}
}
