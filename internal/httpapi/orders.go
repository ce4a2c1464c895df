package httpapi

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
)

func present(o *order.Order) spec.Order {
	shown := spec.Order{ID: o.ID, SKU: o.SKU, Quantity: o.Quantity, Status: spec.OrderStatus(o.Status), PriceCents: o.PriceCents,
		TotalCents: o.TotalCents(), Currency: o.Currency, CreatedAt: o.CreatedAt, ExpiresAt: o.ExpiresAt, ClosedAt: o.ClosedAt}
	if o.PaymentReference != "" {
		shown.PaymentReference = &o.PaymentReference
	}
	return shown
}

// PlaceOrder places an order, or answers what its key was answered before.
func (a *api) PlaceOrder(c *gin.Context, params spec.PlaceOrderParams) {
	this := callOf(c)
	key, err := idempotencyKey(params.IdempotencyKey)
	if err != nil {
		a.fail(c, err)
		return
	}
	var body spec.OrderRequest
	if err := this.decode(&body); err != nil {
		a.fail(c, err)
		return
	}
	request := order.Request{SKU: body.SKU, Customer: this.customer, Key: key, Quantity: body.Quantity, PriceCents: body.PriceCents}
	if body.Currency != nil {
		request.Currency = *body.Currency
	}
	placed, err := a.cfg.Orders.Place(c.Request.Context(), request)
	if err != nil {
		a.fail(c, err)
		return
	}
	if placed.Replayed {
		c.Header("Idempotent-Replayed", "true")
	}
	c.Header("Location", "/v1/orders/"+placed.Order.ID.String())
	c.JSON(http.StatusCreated, present(&placed.Order))
}

// GetOrder shows one of the caller's own orders.
func (a *api) GetOrder(c *gin.Context, text spec.OrderID) {
	id, err := parseOrderID(text)
	if err != nil {
		a.fail(c, err)
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	o, err := a.cfg.Orders.Find(ctx, callOf(c).customer, id)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	c.JSON(http.StatusOK, present(&o))
}

// parseOrderID reads an id in the one form that answers have it in: an order has
// one address.
func parseOrderID(text string) (order.ID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != len(id.String()) {
		return order.ID{}, order.ErrNotFound
	}
	return id, nil
}

// unavailable makes an error of a read that is none of the domain's a 503: the
// database did not answer.
func unavailable(err error) error {
	if problemOf(err).Status != http.StatusInternalServerError {
		return err
	}
	return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
}
