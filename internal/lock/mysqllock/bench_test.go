package mysqllock

import (
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures a hand-over, as locktest.HandOvers does. Waiters of
// lock-table poll, so they are late by the rest of their pause.
//
//	go test ./internal/lock/mysqllock -run '^$' -bench Handover -benchtime 100x
func BenchmarkHandover(b *testing.B) {
	for _, backend := range []locktest.Backend{tableBackend, rowBackend, getLockBackend} {
		b.Run(backend.Name, func(b *testing.B) {
			s := backend.Start(b)
			lockers := [2]lock.Locker{backend.OpenAt(b, s.Address(), testTTL), backend.OpenAt(b, s.Address(), testTTL)}
			locktest.HandOvers(b, "bench", lockers, func(lock.Held) {
				for backend.Capabilities.Queue && len(s.Entries(b, "bench")) < 2 {
					time.Sleep(time.Millisecond)
				}
				if !backend.Capabilities.Queue {
					time.Sleep(20 * time.Millisecond) // the server does not show a waiter
				}
			})
		})
	}
}

// BenchmarkUncontended measures Lock and Unlock without waiters.
func BenchmarkUncontended(b *testing.B) {
	for _, backend := range []locktest.Backend{tableBackend, rowBackend, getLockBackend} {
		b.Run(backend.Name, func(b *testing.B) {
			l := backend.OpenAt(b, backend.Start(b).Address(), testTTL)
			locktest.MustUnlock(b, locktest.MustLock(b, l, "bench"))
			for b.Loop() {
				locktest.MustUnlock(b, locktest.MustLock(b, l, "bench"))
			}
		})
	}
}
