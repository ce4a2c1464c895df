package stock

import (
	"context"
	"errors"

	"gorm.io/gorm"
)

// Catalog reads the SKUs that are listed, by the database's clock. It is safe for
// concurrent use.
type Catalog struct{ DB *DB }

// listed is Stock.Listed.
const listed = "withdrawn_at IS NULL AND (visible_from IS NULL OR visible_from <= NOW(6))"

// Get reads one listed SKU, or returns ErrUnknownSKU.
func (c Catalog) Get(ctx context.Context, sku string) (s Stock, err error) {
	err = c.DB.orm.WithContext(ctx).Where("sku = ? AND "+listed, []byte(sku)).Take(&s).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return Stock{}, ErrUnknownSKU
	}
	return s, wrap("read SKU", err)
}

// List reads up to limit listed SKUs that sort after the given one, in byte order.
func (c Catalog) List(ctx context.Context, after string, limit int) (list []Stock, err error) {
	err = c.DB.orm.WithContext(ctx).Where("sku > ? AND "+listed, []byte(after)).Order("sku").Limit(limit).Find(&list).Error
	return list, wrap("list SKUs", err)
}

// Count returns the number of listed SKUs.
func (c Catalog) Count(ctx context.Context) (n int, err error) {
	err = c.DB.SQL.QueryRowContext(ctx, "SELECT COUNT(*) FROM stock WHERE "+listed).Scan(&n)
	return n, wrap("count SKUs", err)
}
