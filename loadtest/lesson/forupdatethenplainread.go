package lesson

import "flashsale/loadtest/lesson/testbed"

var forUpdateThenPlainRead = Lesson{
	Name:    "for-update-then-plain-read",
	Title:   "the row is locked, then read from an old snapshot",
	Chinese: "加了行锁，却用快照读取旧数据",
	Shows:   "SELECT ... FOR UPDATE returns the newest row. A plain SELECT after it, in the same transaction, returns the snapshot's row.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "lock the row, then read it again without FOR UPDATE", Breaks: true, Script: func(run *testbed.Run) {
			readAfterLock(run, true)
		}},
		{Title: "decide on the result of the locking read", Script: func(run *testbed.Run) {
			readAfterLock(run, false)
		}},
	},
}

// readAfterLock has B lock the row after A's sale, in a transaction with a snapshot.
func readAfterLock(run *testbed.Run, again bool) {
	a, b := buyersWith(run, repeatableRead)
	b.Begin()
	readName(run, b)
	a.Begin()
	a.ReadForUpdate()
	waiting := b.StartReadForUpdate()
	a.Sell(1)
	a.Commit()
	b.FinishRead(waiting)
	if again {
		b.Read()
	}
	b.End(b.Sell(1))
}
