package order_test

import (
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// The simulated MySQL must answer every call as the real one does.
func TestMySQLAnswersAsItsModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		db := open(t, newDSN(t, stock.Stock{}))
		for _, sku := range []string{"a", "b"} {
			if _, err := db.Create(t.Context(), stock.Stock{SKU: sku, Name: sku, PriceCents: 100, Currency: "EUR", Units: 20}); err != nil {
				t.Fatal(err)
			}
		}
		order.CompareWithModel(t, db, seed+1, 300)
	}
}
