package order

import (
	"context"
	"sync"
)

// slots bound how many calls for each SKU run at the same time. The others wait.
type slots struct {
	perSKU int
	bySKU  sync.Map // SKU -> chan struct{}; only for existing SKUs, so that it is bounded
}

// enter waits for a slot.
func (s *slots) enter(ctx context.Context, sku string) (leave func(), err error) {
	of, ok := s.bySKU.Load(sku)
	if !ok {
		of, _ = s.bySKU.LoadOrStore(sku, make(chan struct{}, s.perSKU))
	}
	taken := of.(chan struct{})
	select {
	case taken <- struct{}{}:
		return func() { <-taken }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
