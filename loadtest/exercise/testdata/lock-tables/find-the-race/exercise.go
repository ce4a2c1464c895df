// Exercise find-the-race: see README.md. Fix Buy.
package main

import (
	"context"
	"errors"

	"flashsale/loadtest/exercise/shop"
)

// Buy sells one unit to the customer. It returns false if no unit is left.
func Buy(ctx context.Context, db *shop.Conn, order shop.Order) (sold bool, err error) {
	if _, err := db.Exec(ctx, "SET autocommit = 0"); err != nil { // BEGIN would unlock the tables
		return false, err
	}
	if _, err := db.Exec(ctx, "LOCK TABLES stock WRITE, orders WRITE"); err != nil {
		return false, err
	}
	defer func() {
		_, undo := db.Exec(ctx, "ROLLBACK") // what is not committed: UNLOCK TABLES would commit it
		_, unlock := db.Exec(ctx, "UNLOCK TABLES")
		err = errors.Join(err, undo, unlock)
	}()
	var available int64
	if err := db.QueryRow(ctx, "SELECT available FROM stock WHERE sku = ?", shop.SKU).Scan(&available); err != nil {
		return false, err
	}
	if available < 1 {
		return false, nil
	}
	if _, err := db.Exec(ctx, "UPDATE stock SET available = ?, seq = seq + 1 WHERE sku = ?", available-1, shop.SKU); err != nil {
		return false, err
	}
	if err := db.InsertOrder(ctx, order.Customer, order.Key); err != nil {
		return false, err
	}
	_, err = db.Exec(ctx, "COMMIT")
	return err == nil, err
}

func main() { shop.Serve(shop.Code{Buy: Buy}) }
