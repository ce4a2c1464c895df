package lesson

import "flashsale/loadtest/lesson/testbed"

var unlockBeforeCommit = Lesson{
	Name:    "unlock-before-commit",
	Title:   "the lock must outlive the transaction",
	Shows:   "The lock is given back when the function returns, and the transaction commits around it, a moment later.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "unlock, then COMMIT", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop, mutex := p.Shop(1), newMutex(p)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Begin()
			held := mutex.lock(a)
			a.Read()
			a.Sell(1)
			held.unlock()
			b.Begin()
			heldByB := mutex.lock(b)
			b.Read() // what is committed: A's sale is not
			sale := b.BeginsSale(1)
			a.Commit()
			b.HasSold(sale, 1)
			heldByB.unlock()
			b.Commit()
			return shop.Audit()
		}},
		{Title: "COMMIT, then unlock", Play: func(p *testbed.Play) testbed.Audit {
			shop, mutex := p.Shop(1), newMutex(p)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			held := mutex.lock(a)
			a.Begin()
			a.Read()
			a.Sell(1)
			waiting := mutex.beginsLock(b, held)
			a.Commit()
			held.unlock()
			heldByB := waiting()
			b.Begin()
			b.Read()
			b.Sell(1)
			b.Rollback()
			heldByB.unlock()
			return shop.Audit()
		}},
	},
}
