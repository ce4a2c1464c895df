package lesson

import "flashsale/loadtest/lesson/testbed"

// readsProfile is a read that has nothing to do with the stock, as a framework
// makes them: who is logged in, what the shop is called. Under REPEATABLE READ it
// fixes what the whole transaction sees.
func readsProfile(p *testbed.Play, b *testbed.Buyer) {
	var name string
	p.Check(b.Conn.QueryRowContext(p.Context(), "SELECT name FROM stock WHERE sku = ?", []byte(testbed.SKU)).Scan(&name))
	b.Says("reads the SKU's name: %q", name)
}

var snapshotBeforeLock = Lesson{
	Name:    "snapshot-before-lock",
	Title:   "a snapshot that is older than the lock",
	Shows:   "REPEATABLE READ reads everything as of the transaction's first read. That was before the lock was had.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "BEGIN, read something, then lock", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			return lockInTransaction(p, "REPEATABLE READ")
		}},
		{Title: "lock, then BEGIN", Play: func(p *testbed.Play) testbed.Audit {
			shop, mutex := p.Shop(1), newMutex(p)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Isolation("REPEATABLE READ")
			b.Isolation("REPEATABLE READ")
			held := mutex.lock(a)
			waiting := mutex.beginsLock(b, held)
			a.Begin()
			a.Read()
			a.Sell(1)
			a.Commit()
			held.unlock()
			heldByB := waiting()
			b.Begin()
			readsProfile(p, b)
			b.Read()
			b.Sell(1)
			b.Rollback()
			heldByB.unlock()
			return shop.Audit()
		}},
		{Title: "the same order of steps under READ COMMITTED", Play: func(p *testbed.Play) testbed.Audit {
			return lockInTransaction(p, "READ COMMITTED")
		}},
	},
}

// lockInTransaction has B begin its transaction, read, and only then wait for the
// lock that A sells under.
func lockInTransaction(p *testbed.Play, isolation string) testbed.Audit {
	shop, mutex := p.Shop(1), newMutex(p)
	a, b := shop.Buyer("A"), shop.Buyer("B")
	a.Isolation(isolation)
	b.Isolation(isolation)
	held := mutex.lock(a)
	b.Begin()
	readsProfile(p, b)
	waiting := mutex.beginsLock(b, held)
	a.Begin()
	a.Read()
	a.Sell(1)
	a.Commit()
	held.unlock()
	heldByB := waiting()
	b.Read()
	if b.Sell(1) {
		b.Commit()
	} else {
		b.Rollback()
	}
	heldByB.unlock()
	return shop.Audit()
}
