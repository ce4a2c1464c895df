package order_test

import (
	"fmt"
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// A batch of refusals looks its keys up one by one in the unique index; scanning
// the orders for them would cost more with each order sold.
func TestKeysAreLookedUpInTheIndex(t *testing.T) {
	t.Parallel()
	db := open(t, newDSN(t, stock.Stock{Units: 4}))
	const fill = `INSERT INTO orders SELECT UNHEX(MD5(CONCAT(a.seq, '-', b.seq))), 'sku', CONCAT('customer', a.seq), CONCAT('key', b.seq), '',
		1, 1, 'EUR', NULL, 'reserved', 1, 1, NOW(6), NOW(6) FROM seq_1_to_100 a, seq_1_to_100 b`
	for _, query := range []string{fill, "ANALYZE TABLE orders"} {
		if _, err := db.SQL.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 512} {
		query, args := order.KeysQuery(n)
		plan := map[string]string{}
		for _, row := range explain(t, db.SQL, query, args) {
			if row["table"] == "o" {
				plan = row
			}
		}
		got := fmt.Sprint(plan["type"], " by ", plan["key"])
		if got != "eq_ref by one_order_a_key" && got != "const by one_order_a_key" {
			t.Errorf("%d keys are read by %s, want one look-up in one_order_a_key each: %v", n, got, plan)
		}
	}
}
