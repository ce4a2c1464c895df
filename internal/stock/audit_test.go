package stock_test

import (
	"fmt"
	"testing"

	"flashsale/internal/stock"
)

// insertOrder writes any row of the orders table, also one that the service never writes.
const insertOrder = `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
	per_customer_limit, status, fence, seq, created_at, expires_at)
	VALUES (UNHEX(REPLACE(UUID(), '-', '')), ?, ?, ?, '', ?, 999, 'EUR', ?, ?, ?, ?, NOW(6), NOW(6))`

// closeOrders sets the columns that orders with a final status must have.
const closeOrders = `UPDATE orders SET closed_at = NOW(6), expires_at = NOW(6) + INTERVAL IF(status = 'paid', 1, 0) HOUR,
	returned_by = IF(status = 'paid', NULL, id) WHERE status <> 'reserved'`

func TestAuditFindsEachBrokenInvariant(t *testing.T) {
	t.Parallel()
	type row struct {
		sku, customer, key string
		quantity           int
		limit              any
		status             string
		fence, seq         int
	}
	tests := []struct {
		name   string
		before string // a change of the schema that permits the violation
		rows   []row
		after  string // a change of the stock row
		want   []string
	}{
		{name: "nothing sold"},
		{name: "sold and returned", rows: []row{
			{"sku", "ann", "k1", 3, nil, "reserved", 1, 1}, {"sku", "ben", "k1", 2, nil, "paid", 1, 2},
			{"sku", "cat", "k1", 4, nil, "cancelled", 2, 3}, {"sku", "dan", "k1", 1, nil, "expired", 2, 4},
		}, after: "UPDATE stock SET available = 5, fence = 2, seq = 6"},
		{name: "oversold", rows: []row{
			{"sku", "ann", "k1", 8, nil, "reserved", 0, 1}, {"sku", "ben", "k1", 8, nil, "paid", 0, 1},
		}, after: "UPDATE stock SET available = 2, seq = 1", want: []string{stock.Conservation}},
		{name: "units are missing", after: "UPDATE stock SET available = 9", want: []string{stock.Conservation}},
		{name: "returned twice", rows: []row{{"sku", "ann", "k1", 3, nil, "cancelled", 0, 1}},
			after: "UPDATE stock SET available = 13, seq = 3", want: []string{stock.Conservation}},
		{name: "available below zero", rows: []row{{"sku", "ann", "k1", 11, nil, "reserved", 0, 1}},
			after: "UPDATE stock SET available = -1, seq = 1", want: []string{stock.NonNegative}},
		{name: "order without its SKU", rows: []row{{"unknown", "ann", "k1", 1, nil, "reserved", 0, 1}}, want: []string{stock.KnownSKU}},
		{name: "quantity of zero", rows: []row{{"sku", "ann", "k1", 0, nil, "reserved", 0, 0}}, want: []string{stock.PositiveAmount}},
		{name: "one key for two orders", before: "ALTER TABLE orders DROP INDEX one_order_a_key", rows: []row{
			{"sku", "ann", "k1", 1, nil, "reserved", 0, 1}, {"sku", "ann", "k1", 1, nil, "reserved", 0, 2},
		}, after: "UPDATE stock SET available = 8, seq = 2", want: []string{stock.OneOrderAKey}},
		{name: "over the limit", rows: []row{
			{"sku", "ann", "k1", 2, 3, "reserved", 0, 1}, {"sku", "ann", "k2", 2, 3, "paid", 0, 2},
		}, after: "UPDATE stock SET available = 6, seq = 2", want: []string{stock.WithinLimit}},
		{name: "the limit was lowered later", rows: []row{
			{"sku", "ann", "k1", 4, 4, "reserved", 0, 1}, {"sku", "ben", "k2", 1, 1, "paid", 0, 2},
		}, after: "UPDATE stock SET available = 5, seq = 2, per_customer_limit = 1"},
		{name: "a cancelled order does not count for the limit", rows: []row{
			{"sku", "ann", "k1", 3, 3, "cancelled", 0, 1}, {"sku", "ann", "k2", 3, 3, "reserved", 0, 3},
		}, after: "UPDATE stock SET available = 7, seq = 3"},
		{name: "token decreased", rows: []row{
			{"sku", "ann", "k1", 1, nil, "reserved", 7, 1}, {"sku", "ben", "k1", 1, nil, "reserved", 6, 2},
		}, after: "UPDATE stock SET available = 8, fence = 7, seq = 2", want: []string{stock.TokensRise}},
		{name: "token above the fence", rows: []row{{"sku", "ann", "k1", 1, nil, "reserved", 7, 1}},
			after: "UPDATE stock SET available = 9, fence = 6, seq = 1", want: []string{stock.TokensRise}},
		{name: "order with a later seq", rows: []row{{"sku", "ann", "k1", 1, nil, "reserved", 0, 3}},
			after: "UPDATE stock SET available = 9, seq = 2", want: []string{stock.SeqCovers}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			if test.before != "" {
				exec(t, db, test.before)
			}
			for _, r := range test.rows {
				exec(t, db, insertOrder, r.sku, r.customer, r.key, r.quantity, r.limit, r.status, r.fence, r.seq)
			}
			exec(t, db, closeOrders)
			if test.after != "" {
				exec(t, db, test.after+" WHERE sku = 'sku'")
			}
			report, err := stock.Audit(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range report.Violations {
				got = append(got, v.Invariant)
			}
			if len(got) != len(test.want) || len(got) > 0 && got[0] != test.want[0] {
				t.Errorf("got violations %+v, want %q", report.Violations, test.want)
			}
			if report.OK != (len(test.want) == 0) {
				t.Errorf("got ok %v with violations %+v", report.OK, report.Violations)
			}
		})
	}
}

func TestAuditFindsBrokenFinalOrders(t *testing.T) {
	t.Parallel()
	const archive = `INSERT INTO archived_orders SELECT o.*, NOW(6) FROM orders o WHERE status = `
	const paidBy, named = `UPDATE orders SET payment_reference = 'p' WHERE status = 'paid'`,
		`INSERT INTO payments (reference, order_id) SELECT payment_reference, id FROM orders WHERE payment_reference IS NOT NULL`
	const late, lateNamed = `INSERT INTO late_payments (order_id, customer, reference, received_at) SELECT id, customer, 'late', NOW(6) FROM orders WHERE status = 'cancelled'`,
		`INSERT INTO payments (reference, order_id) SELECT reference, order_id FROM late_payments`
	const restock = `INSERT INTO restocks (id, sku, idempotency_key, fingerprint, units, created_at, seq) VALUES (UNHEX(LEFT(SHA2(RAND(), 256), 32)), `
	tests := []struct {
		name   string
		damage []string
		want   []string
	}{
		{name: "nothing"},
		{name: "purged", damage: []string{archive + "'paid'", "DELETE FROM orders WHERE status = 'paid'"}},
		{name: "restocked", damage: []string{restock + "'sku', 'k', '', 3, NOW(6), 4)"}},
		{name: "paid but not closed", damage: []string{"UPDATE orders SET closed_at = NULL WHERE status = 'paid'"}, want: []string{stock.EndsOnce}},
		{name: "paid and returned", damage: []string{"UPDATE orders SET returned_by = id WHERE status = 'paid'"}, want: []string{stock.EndsOnce}},
		{name: "reserved and closed", damage: []string{"UPDATE orders SET closed_at = NOW(6) WHERE status = 'reserved'"}, want: []string{stock.EndsOnce}},
		{name: "cancelled but not returned", damage: []string{"UPDATE orders SET returned_by = NULL WHERE status = 'cancelled'"},
			want: []string{stock.EndsOnce}},
		{name: "cancelled and paid", damage: []string{"UPDATE orders SET payment_reference = 'p' WHERE status = 'cancelled'"}, want: []string{stock.EndsOnce}},
		{name: "paid by a reference", damage: []string{paidBy, named}},
		{name: "two paid by one reference", damage: []string{
			"UPDATE orders SET status = 'paid', returned_by = NULL, expires_at = closed_at + INTERVAL 1 HOUR WHERE status IN ('cancelled', 'expired')",
			"UPDATE stock SET available = 2", paidBy,
			"ALTER TABLE payments DROP PRIMARY KEY", named, archive + "'paid' LIMIT 1", "DELETE FROM orders WHERE id IN (SELECT id FROM archived_orders)"},
			want: []string{stock.OneOrderAPayment, stock.OneOrderAPayment, stock.OneOrderAPayment}},
		{name: "paid late by a reference", damage: []string{late, lateNamed}},
		{name: "paid late and purged", damage: []string{late, lateNamed, archive + "'cancelled'", "DELETE FROM orders WHERE status = 'cancelled'"}},
		{name: "a late payment's reference that could pay again", damage: []string{late}, want: []string{stock.OneOrderAPayment}},
		{name: "a late payment's reference that is another order's", damage: []string{late,
			"INSERT INTO payments (reference, order_id) SELECT 'late', id FROM orders WHERE status = 'reserved'"}, want: []string{stock.OneOrderAPayment}},
		{name: "a late payment for no order, whose reference could pay again", damage: []string{
			"INSERT INTO late_payments (order_id, customer, reference, received_at) VALUES (UNHEX(REPEAT('ab', 16)), 'ann', 'late', NOW(6))"},
			want: []string{stock.OneOrderAPayment}},
		{name: "a reference that could pay again", damage: []string{paidBy}, want: []string{stock.OneOrderAPayment}},
		{name: "paid late", damage: []string{"UPDATE orders SET expires_at = closed_at WHERE status = 'paid'"}, want: []string{stock.PaidInTime}},
		{name: "expired early", damage: []string{"UPDATE orders SET expires_at = closed_at + INTERVAL 1 SECOND WHERE status = 'expired'"},
			want: []string{stock.PaidInTime}},
		{name: "restocked units are missing", damage: []string{restock + "'sku', 'k', '', 11, NOW(6), 4)"}, want: []string{stock.RestocksCount}},
		{name: "restock with a later seq", damage: []string{restock + "'sku', 'k', '', 1, NOW(6), 99)"}, want: []string{stock.RestocksCount}},
		{name: "restock of an unknown SKU", damage: []string{restock + "'unknown', 'k', '', 1, NOW(6), 0)"}, want: []string{stock.RestocksCount}},
		{name: "archived but still in orders", damage: []string{archive + "'cancelled'"}, want: []string{stock.ArchiveFinal}},
		{name: "a paid order is missing", damage: []string{"DELETE FROM orders WHERE status = 'paid'"}, want: []string{stock.Conservation}},
		{name: "archived while reserved", damage: []string{archive + "'reserved'", "DELETE FROM orders WHERE status = 'reserved'"},
			want: []string{stock.ArchiveFinal}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			for i, status := range []string{"reserved", "paid", "cancelled", "expired"} {
				exec(t, db, insertOrder, "sku", "ann", status, 2, nil, status, 0, i+1)
			}
			exec(t, db, closeOrders)
			exec(t, db, "UPDATE stock SET available = 6, seq = 6")
			for _, query := range test.damage {
				exec(t, db, query)
			}
			report, err := stock.Audit(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range report.Violations {
				got = append(got, v.Invariant)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got violations %+v, want %q", report.Violations, test.want)
			}
		})
	}
}

func TestAuditCountsOversoldUnits(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	exec(t, db, insertOrder, "sku", "ann", "k", 8, nil, "reserved", 0, 1)
	exec(t, db, insertOrder, "sku", "ben", "k", 7, nil, "paid", 0, 1)
	exec(t, db, insertOrder, "sku", "cat", "k", 6, nil, "expired", 0, 1)
	report, err := stock.Audit(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	want := stock.Balance{SKU: "sku", Units: 10, Available: 10, Reserved: 8, Paid: 7, Returned: 6, Oversold: 5}
	if len(report.SKUs) != 1 || report.SKUs[0] != want {
		t.Errorf("got %+v, want %+v", report.SKUs, want)
	}
}
