package etcdlock

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures a hand-over, as locktest.HandOvers does, and the median of a
// put, the durable write that no lock can avoid.
//
//	go test ./internal/lock/etcdlock -run '^$' -bench Handover -benchtime 500x
func BenchmarkHandover(b *testing.B) {
	s := start(b, 1)
	for _, backend := range []locktest.Backend{backend, textbook, try} {
		b.Run(backend.Name, func(b *testing.B) {
			var puts []time.Duration
			name := "hand-over-" + backend.Name
			locktest.HandOvers(b, name, s.openTwo(b, backend), func(lock.Held) {
				for backend.Capabilities.Queue && len(s.Entries(b, name)) < 2 {
					time.Sleep(time.Millisecond)
				}
				if !backend.Capabilities.Queue {
					time.Sleep(20 * time.Millisecond) // the server does not show a waiter
				}
				puts = append(puts, s.put(b))
			})
			locktest.ReportMedian(b, puts, "put-p50-ms")
		})
	}
}

// BenchmarkAlternation measures a Lock and an Unlock while another holder waits.
func BenchmarkAlternation(b *testing.B) {
	s := start(b, 1)
	for _, backend := range []locktest.Backend{backend, textbook} {
		b.Run(backend.Name, func(b *testing.B) {
			lockers := s.openTwo(b, backend)
			b.ResetTimer()
			var group errgroup.Group
			for i, locker := range lockers {
				group.Go(func() error {
					for range (b.N + i) / 2 {
						held, err := locker.Lock(b.Context(), "alternation")
						if err != nil {
							return err
						}
						if err := held.Unlock(b.Context()); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkUncontended measures a Lock and an Unlock without contention.
func BenchmarkUncontended(b *testing.B) {
	l := start(b, 1).newLocker(b)
	for b.Loop() {
		locktest.MustUnlock(b, locktest.MustLock(b, l, "bench"))
	}
}

func (s *server) openTwo(b *testing.B, backend locktest.Backend) [2]lock.Locker {
	b.Helper()
	return [2]lock.Locker{backend.OpenAt(b, s.Address(), testTTL), backend.OpenAt(b, s.Address(), testTTL)}
}

// put returns the duration of one durable write.
func (s *server) put(tb testing.TB) time.Duration {
	tb.Helper()
	began := time.Now()
	if _, err := s.client.Put(tb.Context(), "put", "", clientv3.WithLease(clientv3.NoLease)); err != nil {
		tb.Fatal(err)
	}
	return time.Since(began)
}
