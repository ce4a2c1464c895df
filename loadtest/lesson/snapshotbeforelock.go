package lesson

import "flashsale/loadtest/lesson/testbed"

var snapshotBeforeLock = Lesson{
	Name:    "snapshot-before-lock",
	Title:   "a snapshot that is older than the lock",
	Chinese: "先建快照后加锁：可重复读看到的是旧库存",
	Shows:   "Under REPEATABLE READ a transaction reads the state at its first read. Here that is before the lock was acquired.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "BEGIN, read something, then lock", Breaks: true, Script: func(run *testbed.Run) {
			lockInTransaction(run, repeatableRead)
		}},
		{Title: "lock, then BEGIN", Script: func(run *testbed.Run) {
			mutex := newMutex(run)
			a, b := buyersWith(run, repeatableRead)
			held := mutex.lock(a)
			waiting := mutex.startLock(b, held)
			a.Begin()
			a.End(a.ReadAndSell())
			held.unlock()
			heldByB := waiting()
			b.Begin()
			readName(run, b)
			b.End(b.ReadAndSell())
			heldByB.unlock()
		}},
		{Title: "the same order of steps under READ COMMITTED", Script: func(run *testbed.Run) {
			lockInTransaction(run, "READ COMMITTED")
		}},
	},
}

const repeatableRead = "REPEATABLE READ"

// buyersWith are the buyers A and B of one unit, with that isolation level.
func buyersWith(run *testbed.Run, isolation string) (a, b *testbed.Buyer) {
	a, b = run.Shop(1).Buyers()
	a.Isolation(isolation)
	b.Isolation(isolation)
	return a, b
}

// readName reads something other than the stock, as frameworks do. Under REPEATABLE
// READ this read fixes the snapshot of the whole transaction.
func readName(run *testbed.Run, b *testbed.Buyer) {
	var name string
	run.Check(b.Conn.QueryRowContext(run.Context(), "SELECT name FROM stock WHERE sku = ?", []byte(testbed.SKU)).Scan(&name))
	b.To(MySQL, testbed.Read).Log("reads the SKU's name: %q", name)
}

// lockInTransaction has B begin and read before it waits for A's lock.
func lockInTransaction(run *testbed.Run, isolation string) {
	mutex := newMutex(run)
	a, b := buyersWith(run, isolation)
	held := mutex.lock(a)
	b.Begin()
	readName(run, b)
	waiting := mutex.startLock(b, held)
	a.Begin()
	a.End(a.ReadAndSell())
	held.unlock()
	heldByB := waiting()
	b.End(b.ReadAndSell())
	heldByB.unlock()
}
