package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"flashsale/internal/stock"
)

// readTimeout bounds reading the rows, some thousands.
const readTimeout = 30 * time.Second

// read reads the rows of the SKUs in one snapshot: a call without an answer may still be
// applied, before it or after it.
func read(ctx context.Context, dsn string, sales []*sale) (records map[string]*record, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	db, err := stock.Open(dsn, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.SQL.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { _ = tx.Rollback() }()

	names := make([]any, len(sales))
	for i, s := range sales {
		names[i] = []byte(s.sku)
	}
	in := " WHERE sku IN (" + strings.TrimSuffix(strings.Repeat("?,", len(sales)), ",") + ")"
	type stored struct {
		sku string
		final
		row
	}
	stocks, err := stock.Query(ctx, tx, func(s *stored) []any { return []any{&s.sku, &s.units, &s.available} }, "SELECT sku, units, available FROM stock"+in, names...)
	if err != nil {
		return nil, fmt.Errorf("read the stock: %w", err)
	}
	records = map[string]*record{}
	for _, s := range stocks {
		records[s.sku] = &record{final: s.final}
	}
	rows, err := stock.Query(ctx, tx, func(s *stored) []any {
		return []any{&s.sku, &s.id, &s.customer, &s.key, &s.quantity, &s.status, &s.seq}
	}, "SELECT sku, id, customer, idempotency_key, quantity, status, seq FROM orders"+in+
		" UNION ALL SELECT sku, id, '', idempotency_key, units, '', seq FROM restocks"+in, append(names, names...)...)
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	for _, s := range rows {
		if r := records[s.sku]; r != nil {
			r.rows = append(r.rows, s.row)
		}
	}
	return records, nil
}
