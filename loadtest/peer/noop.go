package peer

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/httpapi"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// unoffered has the methods that no rival implements. They panic, which the middleware
// answers with 500. A bench does not call them.
type unoffered struct{ httpapi.Orders }

// noop accepts every order of a SKU that was put on sale with units, and stores none.
// It refuses orders of SKUs without units, as the other peers do.
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
	id := uuid.Must(uuid.NewV7())
	return promise(&r, id, row.PriceCents, row.Currency, time.Now().UTC()), nil
}

func (n *noop) PutSKU(_ context.Context, want stock.Stock, _ order.Precondition) (stock.Stock, bool, error) {
	want.Available = want.Units
	_, existed := n.skus.Swap(want.SKU, want)
	return want, !existed, nil
}

func (n *noop) ready(context.Context) map[string]error { return nil }

func (n *noop) close(context.Context) error { return nil }

func promise(r *order.Request, id order.ID, priceCents int64, currency string, now time.Time) order.Placed {
	return order.Placed{Order: order.Order{
		ID: id, SKU: r.SKU, Customer: r.Customer, Key: r.Key, Quantity: r.Quantity, PriceCents: priceCents, Currency: currency,
		Status: order.Reserved, CreatedAt: now, ExpiresAt: now.Add(paymentWindow),
	}}
}
