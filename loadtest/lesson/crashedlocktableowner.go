package lesson

import (
	"context"
	"errors"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var crashedLockTableOwner = Lesson{
	Name:    "crashed-lock-table-owner",
	Title:   "a lock row outlives its owner",
	Chinese: "持有者崩溃后锁记录仍在：锁需要租约",
	Shows:   "A replica acquires the lock by inserting a row, and is killed. Nobody deletes the row.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "the row has no expiry", Breaks: true, Script: func(run *testbed.Run) {
			const tries = 4
			shop := leaseShop(run)
			a, b := shop.Replica("A", strategy.Process), shop.Buyer("B")
			a.Exec("INSERT INTO lease: acquires the lock", insertLease, []byte(a.Name))
			a.Crash()
			for try := 1; try <= tries; try++ {
				if try > 1 {
					run.Check(sleep.For(run.Context(), time.Second)) // as the client of a lock table does
				}
				if _, err := b.Conn.ExecContext(run.Context(), insertLease, []byte(b.Name)); !stock.IsDuplicate(err) {
					run.Fail("the lock is free: %v", err)
				}
				b.To(MySQL, testbed.Refuse).Log("INSERT INTO lease: duplicate key, A holds the lock (try %d of %d)", try, tries)
			}
			b.To("", testbed.Refuse).Log("gives up and refuses the order")
			shop.Refuse(b.Name, 1, "locked")
		}},
		{Title: "the row is a lease of one second, by the database's clock", Script: func(run *testbed.Run) {
			shop := leaseShop(run)
			a, b := shop.Replica("A", strategy.Process), shop.Buyer("B")
			a.Exec("INSERT INTO lease, for one second: acquires the lock", insertLeaseUntil, []byte(a.Name), time.Second.Microseconds())
			a.Crash()
			b.To(MySQL, testbed.Lock).Log("requests the lock again and again")
			run.Until("A's lease has ended", func(ctx context.Context) (bool, error) {
				err := takeLease(ctx, b, nil, time.Minute)
				if errors.Is(err, lock.ErrHeld) {
					return false, nil
				}
				return true, err
			})
			b.To(MySQL, testbed.Lock).Log("UPDATE lease ... WHERE expires_at < NOW(6): acquires the lock")
			b.ReadAndSell()
		}},
		{Title: "the service's own lock table, with a lease that is renewed", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Replicas(strategy.LockTable)
			a.Lock()
			a.Begin(strategy.FenceClaim)
			a.Crash()
			_, granted := b.StartLock()
			granted() // once the lease has ended by the database's clock
			b.Begin(strategy.FenceClaim)
			b.Sell()
			b.Unlock()
		}},
	},
}
