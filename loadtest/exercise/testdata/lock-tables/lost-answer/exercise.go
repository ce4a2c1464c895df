// Exercise lost-answer: see README.md. Fix Buy.
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
	if has, err := has(ctx, db, order); has || err != nil {
		return has, err
	}
	taken, err := db.Exec(ctx, "UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = ? AND available >= 1", shop.SKU)
	if err != nil {
		return false, err
	}
	if taken == 0 {
		return false, nil
	}
	if err := db.InsertOrder(ctx, order.Customer, order.Key); err != nil {
		return false, err
	}
	_, err = db.Exec(ctx, "COMMIT")
	return err == nil, err
}

// has reports whether the customer has an order with this key.
func has(ctx context.Context, db *shop.Conn, order shop.Order) (has bool, err error) {
	err = db.QueryRow(ctx, "SELECT COUNT(*) > 0 FROM orders WHERE customer = ? AND idempotency_key = ?", order.Customer, order.Key).Scan(&has)
	return has, err
}

func main() { shop.Serve(shop.Code{Buy: Buy}) }
