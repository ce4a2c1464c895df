// Exercise lost-answer: see README.md. Fix Buy.
package main

import (
	"context"

	"flashsale/internal/stock"
	"flashsale/loadtest/exercise/shop"
)

// Buy sells one unit to the customer. It returns false if no unit is left.
func Buy(ctx context.Context, db *shop.Conn, order shop.Order) (sold bool, err error) {
	if _, err := db.Exec(ctx, "BEGIN"); err != nil {
		return false, err
	}
	err = db.InsertOrder(ctx, order.Customer, order.Key) // waits until another copy is decided
	if stock.IsDuplicate(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	taken, err := db.Exec(ctx, "UPDATE stock SET available = available - 1, seq = seq + 1 WHERE sku = ? AND available >= 1", shop.SKU)
	if err != nil {
		return false, err
	}
	if taken == 0 {
		return false, nil // the order is rolled back
	}
	_, err = db.Exec(ctx, "COMMIT")
	return err == nil, err
}

func main() { shop.Serve(shop.Code{Buy: Buy}) }
