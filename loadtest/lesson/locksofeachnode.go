package lesson

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson/testbed"
)

var locksOfEachNode = Lesson{
	Name:    "locks-of-each-node",
	Title:   "Galera replicates writes, but not locks",
	Chinese: "Galera 只复制写入，不复制锁",
	Shows:   "Two nodes of a Galera cluster accept writes. A lock on one node, by GET_LOCK or on a row, does not exist on the other.",
	Servers: []string{Galera},
	Variants: []Variant{
		{Title: "GET_LOCK on two nodes", Breaks: true, Script: func(run *testbed.Run) {
			_, a, b := shopOfTwoNodes(run)
			getLock(run, a, a.Conn)
			a.Read()
			getLock(run, b, b.Conn)
			b.Read()
			a.Sell(1)
			catchUp(run, b)
			b.Sell(1)
		}},
		{Title: "FOR UPDATE on a row of a lock table, on two nodes", Breaks: true, Script: func(run *testbed.Run) {
			shop, a, b := shopOfTwoNodes(run)
			shop.Exec("CREATE TABLE sku_lock (sku VARBINARY(64) PRIMARY KEY)")
			shop.Exec("INSERT INTO sku_lock VALUES ('sneaker')")
			takeLockRow(run, run.Galera().Nodes[0], a)
			a.Read()
			takeLockRow(run, run.Galera().Nodes[1], b)
			b.Read()
			a.Sell(1)
			catchUp(run, b)
			b.Sell(1)
		}},
		{Title: "GET_LOCK on one node for all", Script: func(run *testbed.Run) {
			shop := run.ShopOn(run.Galera().Nodes[0], 1)
			a, b := shop.BuyerAt(0, "A"), shop.BuyerAt(0, "B")
			getLock(run, a, a.Conn)
			a.Read()
			b.To(b.Server, testbed.Refuse).Do("GET_LOCK: refused", func(ctx context.Context) error {
				var got int
				err := b.Conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0)", run.Name).Scan(&got)
				if err == nil && got != 0 {
					err = errors.New("the lock was granted")
				}
				return err
			})
			a.Sell(1)
			a.To(a.Server, testbed.Lock).Log("RELEASE_LOCK")
			a.Exec("DO RELEASE_LOCK(?)", run.Name)
			getLock(run, b, b.Conn)
			b.ReadAndSell()
		}},
		{Title: "FOR UPDATE on the stock row in the writing transaction, on two nodes", Script: func(run *testbed.Run) {
			_, a, b := shopOfTwoNodes(run)
			a.Begin()
			a.ReadForUpdate()
			b.Begin()
			b.ReadForUpdate()
			a.Sell(1)
			a.Commit()
			b.To(b.Server, testbed.Refuse).Do("writes the stock: Error 1213, the transaction is rolled back", func(ctx context.Context) error {
				_, err := b.Conn.ExecContext(ctx, "UPDATE stock SET available = 0 WHERE sku = ?", []byte(testbed.SKU))
				if err == nil {
					_, err = b.Conn.ExecContext(ctx, "COMMIT")
				}
				if refused, ok := errors.AsType[*mysql.MySQLError](err); ok && refused.Number == deadlock {
					return nil
				}
				return fmt.Errorf("the write was not refused: %w", err)
			})
			b.Begin()
			b.ReadForUpdate()
			b.End(b.Sell(1))
		}},
	},
}

// deadlock is also the error for a transaction that conflicts with another node's.
const deadlock = 1213

func shopOfTwoNodes(run *testbed.Run) (shop *testbed.Shop, a, b *testbed.Buyer) {
	shop = run.ShopOn(run.Galera().Nodes[0], 1)
	a, b = shop.BuyerAt(0, "A"), shop.BuyerAt(1, "B")
	a.Log("is connected to node 1")
	b.Log("is connected to node 2")
	return shop, a, b
}

// takeLockRow locks the row, in a transaction and on a connection of its own.
func takeLockRow(run *testbed.Run, node *sandbox.MySQL, b *testbed.Buyer) {
	db := run.Open(node.DSN(run.Name))
	b.To(b.Server, testbed.Lock).Do("SELECT ... FROM sku_lock FOR UPDATE: locks the row", func(ctx context.Context) error {
		tx, err := db.SQL.BeginTx(context.WithoutCancel(ctx), nil) // it outlasts this step
		if err != nil {
			return err
		}
		run.Cleanup(tx.Rollback)
		var sku string
		return tx.QueryRowContext(ctx, "SELECT sku FROM sku_lock FOR UPDATE").Scan(&sku)
	})
}

// catchUp waits until the buyer's node has applied the writes of the other nodes.
// Before that, the node may still refuse a write to the row.
func catchUp(run *testbed.Run, b *testbed.Buyer) {
	var rows int
	run.Check(b.Conn.QueryRowContext(run.Context(), "SELECT COUNT(*) FROM stock").Scan(&rows))
}
