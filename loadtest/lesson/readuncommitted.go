package lesson

import "flashsale/loadtest/lesson/testbed"

var readUncommitted = Lesson{
	Name:    "read-uncommitted",
	Title:   "uncommitted data may be rolled back",
	Chinese: "脏读：读到的库存可能被回滚",
	Shows:   "READ UNCOMMITTED returns what another transaction has written so far. That transaction rolls back, after a decision was based on it.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "the units of an order whose cancellation rolls back", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			b.Isolation("READ UNCOMMITTED")
			a.ReadAndSell()
			startCancel(a)
			sellBeforeRollback(a, b)
		}},
		{Title: "the stock after an order that rolls back", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(4).Buyers()
			b.Isolation("READ UNCOMMITTED")
			a.Begin()
			a.Read()
			a.Sell(3)
			sellBeforeRollback(a, b)
		}},
		{Title: "a locking read waits for the cancellation", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			a.ReadAndSell()
			startCancel(a)
			sellAfterRollback(a, b)
		}},
		{Title: "a locking read waits for the order that rolls back", Script: func(run *testbed.Run) {
			a, b := run.Shop(4).Buyers()
			a.Begin()
			a.ReadForUpdate()
			a.Sell(3)
			sellAfterRollback(a, b)
		}},
	},
}

// startCancel has a buyer return its unit, in a transaction that stays open.
func startCancel(b *testbed.Buyer) {
	b.Begin()
	b.Exec("UPDATE stock SET available = available + 1, seq = seq + 1 WHERE sku = ?", []byte(testbed.SKU))
	b.Exec("UPDATE orders SET status = 'cancelled' WHERE customer = ?", []byte(b.Name))
	b.To(MySQL, testbed.Write).Log("cancels its order: 1 unit is returned (not committed)")
}

// sellBeforeRollback has B decide on what A has not committed.
func sellBeforeRollback(a, b *testbed.Buyer) {
	b.Begin()
	b.Read()
	sale := b.StartSell(1)
	a.Rollback()
	b.FinishSell(sale, 1)
	b.Commit()
}

// sellAfterRollback has B wait for the end of A's transaction.
func sellAfterRollback(a, b *testbed.Buyer) {
	b.Begin()
	waiting := b.StartReadForUpdate()
	a.Rollback()
	b.FinishRead(waiting)
	b.End(b.Sell(1))
}
