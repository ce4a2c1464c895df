package order_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// `go test -run HundredThousand -v` prints the slowest page.
func TestHundredThousandOrdersAreListedPageByPage(t *testing.T) {
	t.Parallel()
	const orders, page = 100_000, 200
	s := openShop(t, "etcd", stock.Stock{Units: 1}, time.Minute)
	for _, customer := range []string{"ann", "ben"} { // alternating
		execSQL(t, s.dsn, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
			created_at, expires_at) SELECT UNHEX(CONCAT(LPAD(HEX(seq), 16, '0'), LEFT(SHA2(?, 256), 16))), 'sku', ?, seq, '', 1, 1, 'EUR', 'reserved',
			0, 1, NOW(6), NOW(6) + INTERVAL 1 HOUR FROM `+sandboxtest.Numbers(100000)+` n`, customer, customer)
	}
	db, err := stock.Open(s.dsn, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	service := order.New(order.Config{DB: db, Strategy: mustFind(t, "conditional"), RequestTimeout: testTimeout})
	var before order.ID
	seen, pages := 0, 0
	var slowest time.Duration
	rows := rowsRead(t, db, func() {
		for {
			began := time.Now()
			got, err := service.List(t.Context(), "ann", before, page)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				return
			}
			slowest = max(slowest, time.Since(began))
			pages++
			for _, o := range got {
				if o.Customer != "ann" || before != (order.ID{}) && bytes.Compare(o.ID[:], before[:]) >= 0 {
					t.Fatalf("order %v of %s comes after %v", o.ID, o.Customer, before)
				}
				before = o.ID
				seen++
			}
		}
	})
	if seen != orders {
		t.Fatalf("listed %d orders, want %d", seen, orders)
	}
	t.Logf("%d orders in pages of %d: the slowest took %s, and each read %d rows", seen, page, slowest, rows/pages)
	// 2,000 rows to find that there are many, the latest 2,000 of all customers, and the page.
	if most := 2*2000 + 5*page; rows/pages > most {
		t.Errorf("a page reads %d rows, want at most %d", rows/pages, most)
	}
}

// Statements that lock rows find them by primary key, and ordered reads have an index.
func TestPlansOfTheLifeCycle(t *testing.T) {
	t.Parallel()
	db := open(t, newDSN(t, stock.Stock{Units: 4}))
	fill := `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, status, fence, seq,
		created_at, expires_at, closed_at) SELECT UNHEX(LEFT(SHA2(CONCAT(a.seq, '-', b.seq), 256), 32)), 'sku', CONCAT('customer', a.seq), CONCAT('key', b.seq), '',
		1, 1, 'EUR', IF(a.seq > 90, 'reserved', 'paid'), 1, 1, NOW(6), NOW(6) + INTERVAL b.seq SECOND, NOW(6) FROM ` + sandboxtest.Numbers(100) + ` a, ` + sandboxtest.Numbers(100) + ` b`
	for _, query := range []string{fill, "ANALYZE TABLE orders"} {
		if _, err := db.SQL.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	for what, q := range order.LifeQueries(500) {
		if q.Index == "" {
			continue
		}
		found := false
		for _, row := range explain(t, db.SQL, q.Text, q.Args) {
			if row["table"] != "o" && row["table"] != "orders" {
				continue
			}
			found = true
			if row["key"] != q.Index || row["type"] == "index" && !strings.Contains(q.Text, "LIMIT") || row["type"] == "ALL" ||
				strings.Contains(row["Extra"], "filesort") {
				t.Errorf("%s: the plan is %v, want index %s", what, row, q.Index)
			}
		}
		if !found {
			t.Errorf("%s: the plan does not contain orders: %s", what, fmt.Sprint(explain(t, db.SQL, q.Text, q.Args)))
		}
	}
}
