package mirror

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"flashsale/internal/stock"
)

// This file holds all SQL of the mirror. It only reads, and locks nothing.

const entryColumns = "sku, name, price_cents, currency, units, available, per_customer_limit, sale_starts_at, sale_ends_at, seq, revision"

// inList is the most SKUs of one IN. MariaDB makes a temporary table of a
// thousand or more.
const inList = 500

func rowsQuery(n int) string {
	return "SELECT " + entryColumns + " FROM stock WHERE sku IN (?" + strings.Repeat(", ?", n-1) + ")"
}

// readRows reads the given SKUs; one that does not exist is missing in the answer.
func readRows(ctx context.Context, db *stock.DB, skus []string) (map[string]Entry, error) {
	found := make(map[string]Entry, len(skus))
	for len(skus) > 0 {
		some := skus[:min(inList, len(skus))]
		skus = skus[len(some):]
		args := make([]any, len(some))
		for i, sku := range some {
			args[i] = []byte(sku)
		}
		entries, err := readEntries(ctx, db, rowsQuery(len(some)), args...)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			found[e.SKU] = e
		}
	}
	return found, nil
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

// buyersQuery reads the keys of all orders of several SKUs that were admitted
// after a seq of each.
func buyersQuery(n int) string {
	return "SELECT sku, customer, idempotency_key FROM orders WHERE sku = ? AND seq > ?" +
		strings.Repeat(" OR sku = ? AND seq > ?", n-1)
}

// readBuyers calls each for every order that buyersQuery finds. What it is given
// is valid during the call.
func readBuyers(ctx context.Context, db *stock.DB, wanted []wanted, each func(sku, customer, key []byte) error) error {
	args := make([]any, 0, 2*len(wanted))
	for _, w := range wanted {
		args = append(args, []byte(w.sku), w.after())
	}
	rows, err := db.SQL.QueryContext(ctx, buyersQuery(len(wanted)), args...)
	if err != nil {
		return fmt.Errorf("read the keys of orders: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var sku, customer, key sql.RawBytes
		if err := rows.Scan(&sku, &customer, &key); err != nil {
			return fmt.Errorf("read the keys of orders: %w", err)
		}
		if err := each(sku, customer, key); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the keys of orders: %w", err)
	}
	return nil
}
