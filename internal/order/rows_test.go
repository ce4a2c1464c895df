package order_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// A batch of refusals looks up each key in the unique index. A scan of the orders would
// cost more with each order sold.
func TestKeysAreLookedUpInTheIndex(t *testing.T) {
	t.Parallel()
	db := open(t, newDSN(t, stock.Stock{Units: 4}))
	fill := `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, per_customer_limit,
		status, fence, seq, created_at, expires_at) SELECT UNHEX(LEFT(SHA2(CONCAT(a.seq, '-', b.seq), 256), 32)), 'sku', CONCAT('customer', a.seq), CONCAT('key', b.seq), '',
		1, 1, 'EUR', NULL, 'reserved', 1, 1, NOW(6), NOW(6) FROM ` + sandboxtest.Numbers(100) + ` a, ` + sandboxtest.Numbers(100) + ` b`
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
			t.Errorf("%d keys are read by %s, want one look-up in one_order_a_key for each: %v", n, got, plan)
		}
	}
}

// rowsRead counts the rows that the server reads for f's statements. They must all use a
// pool of one connection.
func rowsRead(t *testing.T, db *stock.DB, f func()) int {
	t.Helper()
	count := func() (rows int) {
		t.Helper()
		var name string
		if err := db.SQL.QueryRowContext(t.Context(), "SHOW SESSION STATUS LIKE 'Handler_read_next'").Scan(&name, &rows); err != nil {
			t.Fatal(err)
		}
		var before int
		if err := db.SQL.QueryRowContext(t.Context(), "SHOW SESSION STATUS LIKE 'Handler_read_prev'").Scan(&name, &before); err != nil {
			t.Fatal(err)
		}
		return rows + before
	}
	before := count()
	f()
	return count() - before
}

// For the limit of a SKU, the customer's orders of other SKUs are not read: the lock is
// held in the meantime.
func TestLimitReadsNoOrdersOfOtherSKUs(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 4})
	execSQL(t, dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
		status, fence, seq, created_at, expires_at) SELECT UNHEX(LEFT(SHA2(seq, 256), 32)), IF(seq <= 3, 'sku', 'other'), 'ann', seq, '', seq, 1, 'EUR',
		IF(seq = 3, 'expired', 'paid'), 1, 1, NOW(6), NOW(6) FROM `+sandboxtest.Numbers(5000)+` n`)
	db, err := stock.Open(dsn, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var held map[string]int64
	rows := rowsRead(t, db, func() {
		conn, err := db.SQL.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if held, err = order.HeldBy(t.Context(), conn, "sku", stock.Lenient, []string{"ann", "ben"}); err != nil {
			t.Fatal(err)
		}
	})
	if held["ann"] != 3 || len(held) != 1 {
		t.Errorf("held %v, want 3 by ann only", held)
	}
	if rows > 10 {
		t.Errorf("%d rows were read for the 3 orders of the SKU", rows)
	}
}

// For a customer with few orders, the list does not read those of other customers.
func TestListReadsOnlyTheCustomersOrders(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 4})
	execSQL(t, dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
		status, fence, seq, created_at, expires_at) SELECT UNHEX(LEFT(SHA2(seq, 256), 32)), 'sku', IF(seq <= 10, 'ann', seq), seq, '', 1, 1, 'EUR',
		'reserved', 1, 1, NOW(6), NOW(6) FROM `+sandboxtest.Numbers(10000)+` n`)
	db, err := stock.Open(dsn, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	service := order.New(order.Config{DB: db, Strategy: mustFind(t, "conditional"), RequestTimeout: testTimeout})
	var orders []order.Order
	rows := rowsRead(t, db, func() { orders, err = service.List(t.Context(), "ann", order.ID{}, 200) })
	if err != nil || len(orders) != 10 {
		t.Errorf("listed %d orders, %v; want 10", len(orders), err)
	}
	if rows > 100 {
		t.Errorf("%d rows were read for 10 orders", rows)
	}
}

// Customers and keys may contain any bytes, up to the columns' length. A truncated one
// would be another customer.
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

// The packet of a group takes the SKUs' units, stops if not all were taken, and then
// inserts all orders. Free orders are paid.
func TestTextOfAGroup(t *testing.T) {
	t.Parallel()
	limit := int32(3)
	row := stock.Row{
		Stock: stock.Stock{SKU: "a", PriceCents: 999, Currency: "EUR", PerCustomerLimit: &limit, Seq: 4},
		Now:   time.Date(2026, 5, 1, 12, 0, 0, 7000, time.UTC),
	}
	starts := row.Now.Truncate(time.Second).Add(-time.Second)
	other := stock.Row{Stock: stock.Stock{SKU: "b", Currency: "CHF", SaleStartsAt: &starts}, Now: row.Now}
	got := order.GroupText(order.Part{Row: row, Token: 7, Orders: 2}, order.Part{Row: other, Token: 8, Orders: 1})
	got = regexp.MustCompile(`\(x'[0-9a-f]{32}'`).ReplaceAllString(got, "(ID")
	got = regexp.MustCompile(`x'[0-9a-f]{64}'`).ReplaceAllString(got, "FINGERPRINT")
	want := "BEGIN; " +
		"UPDATE stock SET available = available - CASE sku WHEN x'61' THEN 2 WHEN x'62' THEN 1 END, seq = seq + 1, updated_at = NOW(6) WHERE " +
		"NOW(6) >= '2026-05-01 11:59:59.000000' AND NOW(6) < '2026-05-01 12:00:03.000007' AND " +
		"(sku = x'61' AND fence = 7 AND seq = 4 AND available >= 2 OR sku = x'62' AND fence = 8 AND seq = 0 AND available >= 1); " +
		"SET @stop = IF(ROW_COUNT() = 2, 0, (SELECT 1 UNION SELECT 2)); " +
		"INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, per_customer_limit, status, fence, seq, created_at, expires_at, closed_at) VALUES " +
		"(ID,x'61',x'637573746f6d657230',x'6b6579206f66206130',FINGERPRINT,1,999,x'455552',3,'reserved',7,4,'2026-05-01 12:00:00.000007','2026-05-01 12:00:00.000007',NULL)," +
		"(ID,x'61',x'637573746f6d657231',x'6b6579206f66206130',FINGERPRINT,1,999,x'455552',3,'reserved',7,4,'2026-05-01 12:00:00.000007','2026-05-01 12:00:00.000007',NULL)," +
		"(ID,x'62',x'637573746f6d657230',x'6b6579206f66206230',FINGERPRINT,1,0,x'434846',NULL,'paid',8,0,'2026-05-01 12:00:00.000007','2026-05-01 12:00:00.000007','2026-05-01 12:00:00.000007')" +
		"; COMMIT"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	alone := "BEGIN; UPDATE stock SET available = available - 1, seq = seq + 1, fence = 8, updated_at = NOW(6) WHERE sku = x'62' AND fence = 8 AND seq = 0 " +
		"AND available >= 1 AND NOW(6) >= '2026-05-01 11:59:59.000000' AND NOW(6) < '2026-05-01 12:00:03.000007'; " + stock.Stop + "; INSERT "
	if got := order.GroupText(order.Part{Row: other, Token: 8, Orders: 1}); !strings.HasPrefix(got, alone) {
		t.Errorf("got\n%s\nwant the prefix\n%s", got, alone)
	}
}
