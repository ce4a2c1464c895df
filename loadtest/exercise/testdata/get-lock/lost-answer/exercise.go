// Exercise lost-answer: see README.md. Fix Buy.
package main

import (
	"context"
	"errors"

	"flashsale/loadtest/exercise/shop"
)

// Buy sells one unit to the customer. It returns false if no unit is left.
func Buy(ctx context.Context, db *shop.Conn, order shop.Order) (sold bool, err error) {
	name := order.Customer + "/" + order.Key // the copies of one order lock each other out
	var locked bool
	if err := db.QueryRow(ctx, "SELECT GET_LOCK(?, 60)", name).Scan(&locked); err != nil {
		return false, err
	}
	if !locked {
		return false, errors.New("the lock was not granted within 60 s")
	}
	defer func() {
		var released bool
		err = errors.Join(err, db.QueryRow(ctx, "SELECT RELEASE_LOCK(?)", name).Scan(&released))
	}()
	if has, err := has(ctx, db, order); has || err != nil {
		return has, err
	}
	if _, err := db.Exec(ctx, "BEGIN"); err != nil {
		return false, err
	}
	taken, err := db.Exec(ctx, "UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = ? AND available >= 1", shop.SKU)
	if err != nil {
		return false, err
	}
	if taken == 0 {
		return false, nil // what is open is rolled back
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
