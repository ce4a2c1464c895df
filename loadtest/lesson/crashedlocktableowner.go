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
	Shows:   "A replica takes the lock by inserting a row, and is killed. Nobody deletes the row.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "the row has no end", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			const tries = 4
			shop := p.Shop(1)
			shop.Exec(leaseTable)
			a, b := shop.Replica("A", strategy.Process), shop.Buyer("B")
			a.Exec("INSERT INTO lease: has the lock", insertLease, []byte(a.Name))
			a.Crash()
			for try := 1; ; try++ {
				_, err := b.Conn.ExecContext(p.Context(), insertLease, []byte(b.Name))
				if !stock.IsDuplicate(err) {
					p.Fail("the lock is free: %v", err)
				}
				b.Says("INSERT INTO lease: duplicate key, A has the lock (try %d of %d)", try, tries)
				if try == tries {
					break
				}
				pause(p, time.Second)
			}
			b.Says("gives up, and refuses the order")
			shop.Refuse(b.Name, 1, "locked")
			return shop.Audit()
		}},
		{Title: "the row is a lease of a second, by the database's clock", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			shop.Exec(leaseTable)
			a, b := shop.Replica("A", strategy.Process), shop.Buyer("B")
			a.Exec("INSERT INTO lease, until a second from now: has the lock", insertLeaseUntil, []byte(a.Name), time.Second.Microseconds())
			a.Crash()
			b.Says("asks for the lock until it has it")
			p.Until("A's lease is over", func(ctx context.Context) (bool, error) {
				err := takeLease(ctx, b, nil, time.Minute)
				if errors.Is(err, lock.ErrHeld) {
					return false, nil
				}
				return true, err
			})
			b.Says("UPDATE lease ... WHERE expires_at < NOW(6): has the lock")
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "the service's own lock table, with a lease that is renewed", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Replica("A", strategy.LockTable), shop.Replica("B", strategy.LockTable)
			a.Lock()
			a.Begin(strategy.FenceClaim)
			a.Crash()
			_, granted := b.BeginsLock()
			granted() // once the lease is over by the database's clock
			b.Begin(strategy.FenceClaim)
			b.Sell(1)
			b.Unlock()
			return shop.Audit()
		}},
	},
}

// pause is a step of the story that takes time by itself.
func pause(p *testbed.Play, d time.Duration) {
	p.Check(sleep.For(p.Context(), d))
}
