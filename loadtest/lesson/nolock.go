package lesson

import "flashsale/loadtest/lesson/testbed"

var noLock = Lesson{
	Name:    "no-lock",
	Title:   "two buyers read the same stock",
	Chinese: "不加锁：两个请求读到同一份库存，于是超卖",
	Shows:   "One unit is left. Two requests read the stock, both see one unit, and both sell it.",
	Servers: []string{MySQL},
	Variants: []Variant{
		{Title: "read, then write", Breaks: true, Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			a.Read()
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "the read locks the row", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			a.Begin()
			a.ReadForUpdate()
			b.Begin()
			waiting := b.StartReadForUpdate()
			a.Sell(1)
			a.Commit()
			b.FinishRead(waiting)
			b.End(b.Sell(1))
		}},
		{Title: "the write checks the stock", Script: func(run *testbed.Run) {
			a, b := run.Shop(1).Buyers()
			a.Read()
			b.Read()
			a.SellConditionally()
			b.SellConditionally()
		}},
	},
}
