package order_test

import (
	"fmt"
	"strings"
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// A batch of refusals looks its keys up one by one in the unique index; scanning
// the orders for them would cost more with each order sold.
func TestKeysAreLookedUpInTheIndex(t *testing.T) {
	t.Parallel()
	db := open(t, newDSN(t, stock.Stock{Units: 4}))
	const fill = `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, per_customer_limit,
		status, fence, seq, created_at, expires_at) SELECT UNHEX(MD5(CONCAT(a.seq, '-', b.seq))), 'sku', CONCAT('customer', a.seq), CONCAT('key', b.seq), '',
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

// Customers and keys are any bytes, up to the columns' length and no further:
// what was cut off would be another customer.
func TestCustomersAndKeysAreAnyBytes(t *testing.T) {
	t.Parallel()
	service := startReplica(t, options{dsn: newDSN(t, stock.Stock{Units: 100}), strategy: "etcd"})
	every := make([]byte, 255)
	for i := range every {
		every[i] = byte(i)
	}
	for _, text := range []string{string(every), strings.Repeat("\xff", 255), "?'\\\"\x00", " ", "a ", "A", "a", strings.Repeat("😀", 63)} {
		placed, err := service.Place(t.Context(), buy(text, text, 1))
		if err != nil || placed.Replayed {
			t.Errorf("%q: replayed %v, error %v", text, placed.Replayed, err)
			continue
		}
		found, err := service.Find(t.Context(), text, placed.Order.ID)
		if err != nil || found != placed.Order {
			t.Errorf("%q: found %+v, %v; placed %+v", text, found, err, placed.Order)
		}
	}
	if placed, err := service.Place(t.Context(), buy(strings.Repeat("x", 256), "k", 1)); err == nil {
		t.Errorf("a customer of 256 bytes got %+v", placed.Order)
	}
}
