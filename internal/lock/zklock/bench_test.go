package zklock

import (
	"slices"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures a hand-over: from just before Unlock until the waiter's
// Lock has returned. Two holders with separate sessions take turns. It also reports the
// median of a create, the durable write that no lock can avoid.
//
//	go test ./internal/lock/zklock -run '^$' -bench Handover -benchtime 500x
func BenchmarkHandover(b *testing.B) {
	s := start(b, 1)
	const name = "handover"
	lockers := [2]*Locker{newLocker(b, longTTL, s.Addrs()...), newLocker(b, longTTL, s.Addrs()...)}
	held := locktest.MustLock(b, lockers[0], name)
	holder := 0
	var handovers, writes []time.Duration
	for b.Loop() {
		holder = 1 - holder
		var next lock.Held
		var err error
		granted := make(chan time.Time, 1)
		go func() {
			next, err = lockers[holder].Lock(b.Context(), name)
			granted <- time.Now()
		}()
		<-held.Contended()
		writes = append(writes, s.write(b)) // meanwhile the waiter sets its watch
		began := time.Now()
		locktest.MustUnlock(b, held)
		handovers = append(handovers, (<-granted).Sub(began))
		if err != nil {
			b.Fatal(err)
		}
		held = next
	}
	locktest.MustUnlock(b, held)
	b.ReportMetric(milliseconds(median(handovers)), "p50-ms")
	b.ReportMetric(milliseconds(median(writes)), "write-p50-ms")
}

// BenchmarkUncontended measures a Lock and an Unlock without contention.
func BenchmarkUncontended(b *testing.B) {
	s := start(b, 1)
	l := newLocker(b, longTTL, s.Addrs()...)
	locktest.MustUnlock(b, locktest.MustLock(b, l, "bench"))
	for b.Loop() {
		locktest.MustUnlock(b, locktest.MustLock(b, l, "bench"))
	}
}

// write returns the duration of one durable write.
func (s *server) write(tb testing.TB) time.Duration {
	tb.Helper()
	began := time.Now()
	if _, err := s.conn.Create("/write", nil, zk.FlagEphemeral, anyone); err != nil {
		tb.Fatal(err)
	}
	took := time.Since(began)
	if err := s.conn.Delete("/write", anyVersion); err != nil {
		tb.Fatal(err)
	}
	return took
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
