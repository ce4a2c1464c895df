package stock

import (
	"context"
	"fmt"
)

// Count is how many SKUs there are.
func (db *DB) Count(ctx context.Context) (n int, err error) {
	if err := db.SQL.QueryRowContext(ctx, "SELECT COUNT(*) FROM stock").Scan(&n); err != nil {
		return 0, fmt.Errorf("count SKUs: %w", err)
	}
	return n, nil
}
