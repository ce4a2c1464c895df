package mirror

import (
	"context"

	"flashsale/internal/stock"
)

// Catalog reads SKUs from the view, and from MySQL while the view cannot answer.
// Its answers may be a fraction of a second old. It is safe for concurrent use.
type Catalog struct {
	Mirror *Mirror
	DB     *stock.DB
}

// Get reads one SKU, or returns stock.ErrUnknownSKU.
func (c Catalog) Get(ctx context.Context, sku string) (stock.Stock, error) {
	if entry, ok := c.Mirror.Get(sku); ok {
		return entry, nil
	}
	return c.DB.Get(ctx, sku)
}

// List reads up to limit SKUs that sort after the given one, in byte order.
func (c Catalog) List(ctx context.Context, after string, limit int) ([]stock.Stock, error) {
	if list, ok := c.Mirror.List(after, limit); ok {
		return list, nil
	}
	return c.DB.List(ctx, after, limit)
}

// Count returns the number of SKUs.
func (c Catalog) Count(ctx context.Context) (int, error) {
	if n, ok := c.Mirror.Count(); ok {
		return n, nil
	}
	return c.DB.Count(ctx)
}
