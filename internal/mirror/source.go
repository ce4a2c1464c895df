package mirror

import (
	"context"
	"fmt"
	"strings"

	"flashsale/internal/stock"
)

// This file holds all SQL of the mirror. It only reads, and locks nothing.

const entryColumns = "sku, name, price_cents, currency, units, available, per_customer_limit, sale_starts_at, sale_ends_at, seq, revision"

func rowsQuery(n int) string {
	return "SELECT " + entryColumns + " FROM stock WHERE sku IN (?" + strings.Repeat(", ?", n-1) + ")"
}

// readRows reads the given SKUs; one that does not exist is missing in the answer.
func readRows(ctx context.Context, db *stock.DB, skus []string) (map[string]Entry, error) {
	args := make([]any, len(skus))
	for i, sku := range skus {
		args[i] = []byte(sku)
	}
	entries, err := readEntries(ctx, db, rowsQuery(len(skus)), args...)
	found := make(map[string]Entry, len(entries))
	for _, e := range entries {
		found[e.SKU] = e
	}
	return found, err
}

// readPage reads up to limit SKUs that sort after the given one.
func readPage(ctx context.Context, db *stock.DB, after string, limit int) ([]Entry, error) {
	return readEntries(ctx, db, "SELECT "+entryColumns+" FROM stock WHERE sku > ? ORDER BY sku LIMIT ?", []byte(after), limit)
}

func readEntries(ctx context.Context, db *stock.DB, query string, args ...any) ([]Entry, error) {
	rows, err := db.SQL.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read stock: %w", err)
	}
	defer rows.Close()
	var entries []Entry
	for rows.Next() {
		var e Entry
		err := rows.Scan(&e.SKU, &e.Name, &e.PriceCents, &e.Currency, &e.Units, &e.Available,
			&e.PerCustomerLimit, &e.SaleStartsAt, &e.SaleEndsAt, &e.Seq, &e.Revision)
		if err != nil {
			return nil, fmt.Errorf("read stock: %w", err)
		}
		entries = append(entries, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read stock: %w", err)
	}
	return entries, nil
}
