// Exercise paused-holder: see README.md. Fix Buy.
package main

import (
	"context"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/loadtest/exercise/shop"
)

// Buy sells one unit to the customer. The caller holds the SKU's lock.
func Buy(ctx context.Context, db *shop.Conn, held lock.Held, order shop.Order) (sold bool, err error) {
	token := uint64(held.Token())
	if _, err := db.Exec(ctx, "UPDATE stock SET fence = ? WHERE sku = ? AND fence < ?", token, shop.SKU, token); err != nil {
		return false, err
	}
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
	changed, err := db.Exec(ctx, "UPDATE stock SET available = ?, seq = seq + 1 WHERE sku = ? AND fence = ?", available-1, shop.SKU, token)
	if err != nil {
		return false, err
	}
	if changed == 0 {
		return false, stock.ErrFenced
	}
	if err := db.InsertOrder(ctx, order.Customer, order.Key); err != nil {
		return false, err
	}
	_, err = db.Exec(ctx, "COMMIT")
	return err == nil, err
}

func main() { shop.Serve(shop.Code{BuyHolding: Buy}) }
