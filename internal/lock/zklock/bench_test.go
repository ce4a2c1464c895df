package zklock

import (
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures a hand-over, as locktest.HandOvers does, and the median of a
// create, the durable write that no lock can avoid.
//
//	go test ./internal/lock/zklock -run '^$' -bench Handover -benchtime 500x
func BenchmarkHandover(b *testing.B) {
	s := start(b, 1)
	var writes []time.Duration
	lockers := [2]lock.Locker{newLocker(b, longTTL, s.Addrs()...), newLocker(b, longTTL, s.Addrs()...)}
	locktest.HandOvers(b, "handover", lockers, func(held lock.Held) {
		<-held.Contended()
		writes = append(writes, s.write(b)) // meanwhile the waiter sets its watch
	})
	locktest.ReportMedian(b, writes, "write-p50-ms")
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
	if _, err := s.conn.Create("/write", nil, zk.FlagEphemeral, openACL); err != nil {
		tb.Fatal(err)
	}
	took := time.Since(began)
	if err := s.conn.Delete("/write", anyVersion); err != nil {
		tb.Fatal(err)
	}
	return took
}
