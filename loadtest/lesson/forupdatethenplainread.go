package lesson

import "flashsale/loadtest/lesson/testbed"

var forUpdateThenPlainRead = Lesson{
	Name:    "for-update-then-plain-read",
	Title:   "the row is locked, and then read from the past",
	Shows:   "SELECT ... FOR UPDATE returns the newest row. A plain SELECT after it, in the same transaction, returns the snapshot's.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "lock the row, then read it once more without FOR UPDATE", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			return readAfterLock(p, true)
		}},
		{Title: "decide by what the locking read has returned", Play: func(p *testbed.Play) testbed.Audit {
			return readAfterLock(p, false)
		}},
	},
}

// readAfterLock has B lock the row behind A's sale, in a transaction that has
// read before.
func readAfterLock(p *testbed.Play, again bool) testbed.Audit {
	shop := p.Shop(1)
	a, b := shop.Buyer("A"), shop.Buyer("B")
	a.Isolation("REPEATABLE READ")
	b.Isolation("REPEATABLE READ")
	b.Begin()
	readsProfile(p, b)
	a.Begin()
	a.ReadForUpdate()
	waiting := b.BeginsReadForUpdate()
	a.Sell(1)
	a.Commit()
	b.HasRead(waiting)
	if again {
		b.Read()
	}
	if b.Sell(1) {
		b.Commit()
	} else {
		b.Rollback()
	}
	return shop.Audit()
}
