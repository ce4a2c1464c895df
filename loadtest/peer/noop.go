package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/httpapi"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// unoffered is what no rival offers. Its methods panic, which the middleware
// answers with 500: a bench calls none of them.
type unoffered struct{ httpapi.Orders }

// noop promises an order for anything that was put on sale with any units at all,
// and remembers none. It refuses what was put on sale with none, so that its
// answers are those of the others.
type noop struct {
	unoffered
	skus sync.Map // SKU -> stock.Stock
}

func openNoop(context.Context, Servers) (rival, error) { return &noop{}, nil }

func (n *noop) Place(_ context.Context, r order.Request) (order.Placed, error) {
	found, ok := n.skus.Load(r.SKU)
	if !ok {
		return order.Placed{}, stock.ErrUnknownSKU
	}
	row := found.(stock.Stock)
	if row.Units == 0 {
		return order.Placed{}, order.ErrSoldOut
	}
	id, err := uuid.NewV7()
	if err != nil {
		return order.Placed{}, fmt.Errorf("%w: %w", order.ErrUnavailable, err)
	}
	return promise(&r, id, row.PriceCents, row.Currency, time.Now().UTC()), nil
}

func (n *noop) PutSKU(_ context.Context, want stock.Stock, _ order.Precondition) (stock.Stock, bool, error) {
	want.Available = want.Units
	_, existed := n.skus.Swap(want.SKU, want)
	return want, !existed, nil
}

func (n *noop) ready(context.Context) map[string]error { return nil }

func (n *noop) close(context.Context) error { return nil }

// promise is the order that r becomes.
func promise(r *order.Request, id order.ID, priceCents int64, currency string, now time.Time) order.Placed {
	return order.Placed{Order: order.Order{
		ID: id, SKU: r.SKU, Customer: r.Customer, Key: r.Key, Quantity: r.Quantity, PriceCents: priceCents, Currency: currency,
		Status: order.Reserved, CreatedAt: now, ExpiresAt: now.Add(paymentWindow),
	}}
}
