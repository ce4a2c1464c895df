package lesson

import "flashsale/loadtest/lesson/testbed"

var noLock = Lesson{
	Name:    "no-lock",
	Title:   "two buyers read the same stock",
	Shows:   "One unit is left. Two requests read the stock, both see a unit, both sell it.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "read, then write", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Read()
			b.Read()
			a.Sell(1)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "the row is locked by the read", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Begin()
			a.ReadForUpdate()
			b.Begin()
			waiting := b.BeginsReadForUpdate()
			a.Sell(1)
			a.Commit()
			b.HasRead(waiting)
			b.Sell(1)
			b.Rollback()
			return shop.Audit()
		}},
		{Title: "the write asks for what the read has seen", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Read()
			b.Read()
			a.SellConditionally(1)
			b.SellConditionally(1)
			return shop.Audit()
		}},
	},
}
