package memcachedlock

import (
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
)

// BenchmarkHandover measures a hand-over, as locktest.HandOvers does.
//
//	go test ./internal/lock/memcachedlock -run '^$' -bench Handover -benchtime 200x
func BenchmarkHandover(b *testing.B) {
	s := start(b, sandbox.MemcachedConfig{})
	locktest.HandOvers(b, "n", [2]lock.Locker{newLocker(b, s.Addr), newLocker(b, s.Addr)}, func(lock.Held) {
		time.Sleep(10 * time.Millisecond) // the server does not show a waiter
	})
}
