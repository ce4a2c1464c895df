package lesson

import "flashsale/loadtest/lesson/testbed"

var unlockBeforeCommit = Lesson{
	Name:    "unlock-before-commit",
	Title:   "the lock must be held until after COMMIT",
	Chinese: "先释放锁后提交事务：锁必须持有到 COMMIT 之后",
	Shows:   "The function releases the lock when it returns. Its caller commits the transaction a moment later.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "unlock, then COMMIT", Breaks: true, Script: func(run *testbed.Run) {
			mutex := newMutex(run)
			a, b := run.Shop(1).Buyers()
			a.Begin()
			mutex.sell(a)
			b.Begin()
			held := mutex.lock(b)
			b.Read() // A's sale is not committed
			sale := b.StartSell(1)
			a.Commit()
			b.FinishSell(sale, 1)
			held.unlock()
			b.Commit()
		}},
		{Title: "COMMIT, then unlock", Script: func(run *testbed.Run) {
			mutex := newMutex(run)
			a, b := run.Shop(1).Buyers()
			held := mutex.lock(a)
			a.Begin()
			a.ReadAndSell()
			waiting := mutex.startLock(b, held)
			a.Commit()
			held.unlock()
			heldByB := waiting()
			b.Begin()
			b.End(b.ReadAndSell())
			heldByB.unlock()
		}},
	},
}
