// Exercise find-the-race: see README.md. Fix Buy.
package main

import (
	"context"
	"errors"
	"time"

	"flashsale/loadtest/exercise/shop"
)

// Buy sells one unit to the customer. It returns false if no unit is left.
func Buy(ctx context.Context, db *shop.Conn, order shop.Order) (sold bool, err error) {
	for locked := false; !locked; {
		if err := db.QueryRow(ctx, "SELECT GET_LOCK(?, 0)", shop.SKU).Scan(&locked); err != nil {
			return false, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer func() {
		var released bool
		err = errors.Join(err, db.QueryRow(ctx, "SELECT RELEASE_LOCK(?)", shop.SKU).Scan(&released))
	}()
	var available int64
	if err := db.QueryRow(ctx, "SELECT available FROM stock WHERE sku = ?", shop.SKU).Scan(&available); err != nil {
		return false, err
	}
	if available < 1 {
		return false, nil
	}
	if _, err := db.Exec(ctx, "BEGIN"); err != nil {
		return false, err
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
