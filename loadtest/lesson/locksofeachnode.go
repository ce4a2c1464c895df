package lesson

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/loadtest/lesson/testbed"
)

var locksOfEachNode = Lesson{
	Name:    "locks-of-each-node",
	Title:   "Galera replicates writes, and no locks",
	Shows:   "Two nodes of a Galera cluster take writes. A lock that is taken on one node, by GET_LOCK or on a row, is unknown to the other.",
	Servers: []Server{Galera},
	Acts: []Act{
		{Title: "GET_LOCK, on two nodes", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop, a, b := shopOfTwoNodes(p)
			getLock(p, a, a.Conn)
			a.Read()
			getLock(p, b, b.Conn)
			b.Read()
			a.Sell(1)
			catchUp(p, b)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "a row of a lock table, FOR UPDATE, on two nodes", Breaks: true, Play: func(p *testbed.Play) testbed.Audit {
			shop, a, b := shopOfTwoNodes(p)
			shop.Exec("CREATE TABLE sku_lock (sku VARBINARY(64) PRIMARY KEY)")
			shop.Exec("INSERT INTO sku_lock VALUES ('sneaker')")
			takeLockRow(p, p.Galera().Nodes[0], a)
			a.Read()
			takeLockRow(p, p.Galera().Nodes[1], b)
			b.Read()
			a.Sell(1)
			catchUp(p, b)
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "GET_LOCK, on one node for all", Play: func(p *testbed.Play) testbed.Audit {
			nodes := p.Galera().Nodes
			shop := p.ShopOn(nodes[0], 1)
			a, b := shop.BuyerAt(nodes[0], "A"), shop.BuyerAt(nodes[0], "B")
			getLock(p, a, a.Conn)
			a.Read()
			b.Does("GET_LOCK: refused", func(ctx context.Context) error {
				var got int
				err := b.Conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0)", p.Name).Scan(&got)
				if err == nil && got != 0 {
					err = errors.New("it was granted")
				}
				return err
			})
			a.Sell(1)
			a.Says("RELEASE_LOCK")
			exec(p, a, "DO RELEASE_LOCK(?)", p.Name)
			getLock(p, b, b.Conn)
			b.Read()
			b.Sell(1)
			return shop.Audit()
		}},
		{Title: "the stock's own row in the transaction that writes it, on two nodes", Play: func(p *testbed.Play) testbed.Audit {
			shop, a, b := shopOfTwoNodes(p)
			a.Begin()
			a.ReadForUpdate()
			b.Begin()
			b.ReadForUpdate()
			a.Sell(1)
			a.Commit()
			b.Does("writes the stock: Error 1213, the transaction is rolled back", func(ctx context.Context) error {
				_, err := b.Conn.ExecContext(ctx, "UPDATE stock SET available = 0 WHERE sku = ?", []byte(testbed.SKU))
				if err == nil {
					_, err = b.Conn.ExecContext(ctx, "COMMIT")
				}
				if refused, ok := errors.AsType[*mysql.MySQLError](err); ok && refused.Number == deadlock {
					return nil
				}
				return fmt.Errorf("it was not refused: %w", err)
			})
			b.Begin()
			b.ReadForUpdate()
			b.Sell(1)
			b.Rollback()
			return shop.Audit()
		}},
	},
}

// deadlock is also Galera's answer to a transaction that another node was faster than.
const deadlock = 1213

// shopOfTwoNodes has a buyer at each node.
func shopOfTwoNodes(p *testbed.Play) (shop *testbed.Shop, a, b *testbed.Buyer) {
	nodes := p.Galera().Nodes
	shop = p.ShopOn(nodes[0], 1)
	a, b = shop.BuyerAt(nodes[0], "A"), shop.BuyerAt(nodes[1], "B")
	a.Says("is connected to node 1")
	b.Says("is connected to node 2")
	return shop, a, b
}

// takeLockRow locks the row for a buyer, in a transaction and on a connection of its own.
func takeLockRow(p *testbed.Play, node *sandbox.MySQL, b *testbed.Buyer) {
	db, err := stock.Open(node.DSN(p.Name), 1)
	p.Check(err)
	p.Cleanup(db.Close)
	b.Does("SELECT ... FROM sku_lock FOR UPDATE: has the row", func(ctx context.Context) error {
		tx, err := db.SQL.BeginTx(context.WithoutCancel(ctx), nil) // it lasts for longer than this step
		if err != nil {
			return err
		}
		p.Cleanup(tx.Rollback)
		var sku string
		return tx.QueryRowContext(ctx, "SELECT sku FROM sku_lock FOR UPDATE").Scan(&sku)
	})
}

// catchUp waits until the buyer's node has what the others have written. Without it
// the node may still refuse a write on a row that is being written elsewhere.
func catchUp(p *testbed.Play, b *testbed.Buyer) {
	var rows int
	p.Check(b.Conn.QueryRowContext(p.Context(), "SELECT COUNT(*) FROM stock").Scan(&rows))
}
