package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

// maxReference is the longest payment reference, in bytes. The document can only
// count characters.
const maxReference = 255

func presentOrder(o *order.Order) spec.Order {
	shown := spec.Order{ID: o.ID, SKU: o.SKU, Quantity: o.Quantity, Status: spec.OrderStatus(o.Status), PriceCents: o.PriceCents,
		TotalCents: o.TotalCents(), Currency: o.Currency, CreatedAt: o.CreatedAt, ExpiresAt: o.ExpiresAt, ClosedAt: o.ClosedAt}
	if o.PaymentReference != "" {
		shown.PaymentReference = &o.PaymentReference
	}
	return shown
}

// PlaceOrder places an order, or replays the order of the idempotency key.
func (a *api) PlaceOrder(c *gin.Context, params spec.PlaceOrderParams) {
	a.serve(c, func(ctx context.Context) (any, error) {
		key, err := idempotencyKey(params.IdempotencyKey)
		if err != nil {
			return nil, err
		}
		body, err := decode[spec.OrderRequest](c)
		if err != nil {
			return nil, err
		}
		request := order.Request{SKU: body.SKU, Customer: callOf(c).customer, Key: key, Quantity: body.Quantity, PriceCents: body.PriceCents}
		if body.Currency != nil {
			request.Currency = *body.Currency
		}
		placed, err := a.cfg.Orders.Place(ctx, request)
		if err != nil {
			return nil, err
		}
		created(c, placed.Replayed)
		c.Header("Location", "/v1/orders/"+placed.Order.ID.String())
		return presentOrder(&placed.Order), nil
	})
}

// created sets the status 201, and marks a replay.
func created(c *gin.Context, replayed bool) {
	c.Status(http.StatusCreated)
	if replayed {
		c.Header("Idempotent-Replayed", "true")
	}
}

func (a *api) GetOrder(c *gin.Context, id spec.OrderID) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		return oneOrder(id, func(id order.ID) (order.Order, error) { return a.cfg.Orders.Find(ctx, callOf(c).customer, id) })
	})
}

func (a *api) ListOrders(c *gin.Context, params spec.ListOrdersParams) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		place, valid := func(o *order.Order) order.ID { return o.ID }, func(order.ID) bool { return true }
		list, next, err := readPage(a, params.Cursor, params.Limit, place, valid, func(before order.ID, limit int) ([]order.Order, error) {
			return a.cfg.Orders.List(ctx, callOf(c).customer, before, limit)
		})
		return spec.OrderList{Items: presentAll(list, presentOrder), NextCursor: next}, err
	})
}

func (a *api) PayOrder(c *gin.Context, id spec.OrderID) {
	a.serve(c, func(ctx context.Context) (any, error) {
		body, err := decode[spec.PaymentRequest](c)
		if err != nil {
			return nil, err
		}
		return oneOrder(id, func(id order.ID) (order.Order, error) {
			reference := ""
			if body.Reference != nil {
				reference = *body.Reference
			}
			if len(reference) > maxReference {
				return order.Order{}, kindInvalid.problem("See errors for each field.",
					fieldError{Field: "reference", Message: fmt.Sprintf("must have at most %d bytes", maxReference)})
			}
			return a.cfg.Orders.Pay(ctx, callOf(c).customer, id, reference)
		})
	})
}

func (a *api) CancelOrder(c *gin.Context, id spec.OrderID) {
	a.serve(c, func(ctx context.Context) (any, error) {
		return oneOrder(id, func(id order.ID) (order.Order, error) {
			o, err := a.cfg.Orders.Cancel(ctx, callOf(c).customer, id)
			if errors.Is(err, order.ErrAlreadyPaid) {
				err = kindAlreadyPaid.problem("The order was not changed. Paid orders cannot be cancelled; the shop decides about refunds.")
			}
			return o, err
		})
	})
}

// oneOrder calls do with the order's id. Only the form of an id that answers use
// is accepted, so that an order has one address.
func oneOrder(text string, do func(order.ID) (order.Order, error)) (any, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != len(id.String()) {
		return nil, order.ErrNotFound
	}
	o, err := do(id)
	return presentOrder(&o), err
}
