package redislock

import (
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures a hand-over, as locktest.HandOvers does.
//
//	go test ./internal/lock/redislock -run '^$' -bench Handover -benchtime 200x
func BenchmarkHandover(b *testing.B) {
	asked := func(lock.Held) { time.Sleep(10 * time.Millisecond) } // the server does not show a waiter
	b.Run("redis", func(b *testing.B) {
		s := start(b, 1)
		locktest.HandOvers(b, "n", [2]lock.Locker{newLocker(b, s.Address(), testTTL), newLocker(b, s.Address(), testTTL)}, asked)
	})
	b.Run("redlock", func(b *testing.B) {
		s := start(b, 5)
		locktest.HandOvers(b, "n", [2]lock.Locker{newRedlock(b, s, testTTL), newRedlock(b, s, testTTL)}, asked)
	})
}
