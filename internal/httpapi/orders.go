package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/limit"
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
		placed, err := a.place(ctx, c, request)
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
		return oneOrder(id, func(id order.ID) (order.Order, error) {
			if callOf(c).customer == "" { // the payment service
				return a.cfg.Orders.Lookup(ctx, id)
			}
			return a.cfg.Orders.Find(ctx, callOf(c).customer, id)
		})
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
		if err := a.checkPayment(&body); err != nil {
			return nil, err
		}
		p := order.Payment{Customer: callOf(c).customer, AmountCents: body.AmountCents, Currency: body.Currency}
		if body.Reference != nil {
			p.Reference = *body.Reference
		}
		if !a.cfg.PaymentService { // there, nobody else invents payments, and none of them may be lost
			p.Late = sync.OnceValue(func() error { return take(c, a.cfg.Limits, limit.LatePayments, p.Customer) })
		}
		return oneOrder(id, func(id order.ID) (order.Order, error) {
			p.Order = id
			o, err := a.cfg.Orders.Pay(ctx, p)
			if errors.Is(err, order.ErrPaymentMismatch) {
				err = kindMismatch.problem(mismatch(&o, &p))
			}
			return o, err
		})
	})
}

// checkPayment checks what the document does not say about a payment.
func (a *api) checkPayment(body *spec.PaymentRequest) error {
	var wrong []fieldError
	require := func(field string, missing bool) {
		if missing && a.cfg.PaymentService {
			wrong = append(wrong, fieldError{Field: field, Message: "is required"})
		}
	}
	require("reference", body.Reference == nil)
	require("amount_cents", body.AmountCents == nil)
	require("currency", body.Currency == nil)
	if body.Reference != nil && len(*body.Reference) > maxReference {
		wrong = append(wrong, fieldError{Field: "reference", Message: fmt.Sprintf("must have at most %d bytes", maxReference)})
	}
	if len(wrong) > 0 {
		return kindInvalid.problem("See errors for each field.", wrong...)
	}
	return nil
}

// mismatch describes the two amounts.
func mismatch(o *order.Order, p *order.Payment) string {
	amount, currency := o.TotalCents(), o.Currency
	if p.AmountCents != nil {
		amount = *p.AmountCents
	}
	if p.Currency != nil {
		currency = *p.Currency
	}
	return fmt.Sprintf("The order's total_cents is %d %s, the payment's amount_cents is %d %s. %s", o.TotalCents(), o.Currency, amount, currency, lateDetail)
}

func (a *api) CancelOrder(c *gin.Context, id spec.OrderID) {
	a.serve(c, func(ctx context.Context) (any, error) {
		return oneOrder(id, func(id order.ID) (order.Order, error) {
			if err := take(c, a.cfg.Limits, limit.Cancellations, callOf(c).customer); err != nil {
				return order.Order{}, err
			}
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
