package stock

import (
	"context"
	"fmt"
)

// Level is how much of a SKU is left, and when, by its row's seq.
type Level struct {
	SKU       string
	Units     int64
	Available int64
	Seq       uint64
}

// Levels reads what is left of every SKU, in byte order, in one query.
func (db *DB) Levels(ctx context.Context) ([]Level, error) {
	rows, err := db.SQL.QueryContext(ctx, "SELECT sku, units, available, seq FROM stock ORDER BY sku")
	if err != nil {
		return nil, fmt.Errorf("read what is left: %w", err)
	}
	defer rows.Close()
	var levels []Level
	for rows.Next() {
		var l Level
		if err := rows.Scan(&l.SKU, &l.Units, &l.Available, &l.Seq); err != nil {
			return nil, fmt.Errorf("read what is left: %w", err)
		}
		levels = append(levels, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what is left: %w", err)
	}
	return levels, nil
}
