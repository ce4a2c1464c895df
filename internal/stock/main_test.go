package stock_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) { sandboxtest.Main(m, sandbox.Config{MySQL: true}, &servers) }

var databases atomic.Int32

// newDSN creates an empty database.
func newDSN(t *testing.T) string {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("stock%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

func open(t *testing.T, dsn string) *stock.DB {
	t.Helper()
	db, err := stock.Open(dsn, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// newDB creates a database with the schema and one SKU of 10 units.
func newDB(t *testing.T) *stock.DB {
	t.Helper()
	db := open(t, newDSN(t))
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, db, "sku", 10)
	return db
}

func put(t *testing.T, db *stock.DB, sku string, units int64) {
	t.Helper()
	created, err := db.Create(t.Context(), stock.Stock{SKU: sku, Name: "A thing", PriceCents: 999, Currency: "EUR", Units: units})
	if err != nil || !created {
		t.Fatalf("create %s: created %v, error %v", sku, created, err)
	}
}

func exec(t *testing.T, db *stock.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.SQL.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", strings.TrimSpace(query), err)
	}
}
