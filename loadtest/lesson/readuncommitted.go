package lesson

import "flashsale/loadtest/lesson/testbed"

var readUncommitted = Lesson{
	Name:    "read-uncommitted",
	Title:   "what is not committed may never have been",
	Shows:   "READ UNCOMMITTED shows what another transaction has written so far. It rolls back, and the decision rests on nothing.",
	Servers: []Server{MySQL},
	Acts: []Act{
		{Title: "the units of an order whose cancellation rolls back", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			first := shop.Buyer("A")
			first.Read()
			first.Sell(1)
			b := shop.Buyer("B")
			b.Isolation("READ UNCOMMITTED")
			cancels(p, first)
			b.Begin()
			b.Read()
			sale := b.BeginsSale(1)
			first.Rollback()
			b.HasSold(sale, 1)
			b.Commit()
			return shop.Audit()
		}},
		{Title: "the stock as an order leaves it that rolls back", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(4)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			b.Isolation("READ UNCOMMITTED")
			a.Begin()
			a.Read()
			a.Sell(3)
			b.Begin()
			b.Read()
			sale := b.BeginsSale(1)
			a.Rollback()
			b.HasSold(sale, 1)
			b.Commit()
			return shop.Audit()
		}},
		{Title: "a locking read waits for what is under way", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(1)
			first := shop.Buyer("A")
			first.Read()
			first.Sell(1)
			b := shop.Buyer("B")
			cancels(p, first)
			b.Begin()
			waiting := b.BeginsReadForUpdate()
			first.Rollback()
			b.HasRead(waiting)
			b.Sell(1)
			b.Rollback()
			return shop.Audit()
		}},
		{Title: "and so do the units of the order that rolls back", Play: func(p *testbed.Play) testbed.Audit {
			shop := p.Shop(4)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Begin()
			a.ReadForUpdate()
			a.Sell(3)
			b.Begin()
			waiting := b.BeginsReadForUpdate()
			a.Rollback()
			b.HasRead(waiting)
			b.Sell(1)
			b.Commit()
			return shop.Audit()
		}},
	},
}

// cancels has a buyer give its unit back, in a transaction that stays open.
func cancels(p *testbed.Play, b *testbed.Buyer) {
	b.Begin()
	exec(p, b, "UPDATE stock SET available = available + 1, seq = seq + 1 WHERE sku = ?", []byte(testbed.SKU))
	exec(p, b, "UPDATE orders SET status = 'cancelled' WHERE customer = ?", []byte(b.Name))
	b.Says("cancels its order: 1 unit goes back (not committed)")
}

// exec runs a statement that has to succeed on the buyer's connection.
func exec(p *testbed.Play, b *testbed.Buyer, query string, args ...any) int64 {
	result, err := b.Conn.ExecContext(p.Context(), query, args...)
	p.Check(err)
	changed, err := result.RowsAffected()
	p.Check(err)
	return changed
}
