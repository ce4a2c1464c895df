package httpapi

import (
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"flashsale/internal/order"
)

type orderRequest struct {
	SKU      text    `json:"sku"`
	Quantity integer `json:"quantity"`
}

type orderResponse struct {
	ID         order.ID     `json:"id"`
	SKU        string       `json:"sku"`
	Quantity   int32        `json:"quantity"`
	Status     order.Status `json:"status"`
	PriceCents int64        `json:"price_cents"`
	TotalCents int64        `json:"total_cents"`
	Currency   string       `json:"currency"`
	CreatedAt  time.Time    `json:"created_at"`
	ExpiresAt  time.Time    `json:"expires_at"`
}

func present(o *order.Order) orderResponse {
	return orderResponse{ID: o.ID, SKU: o.SKU, Quantity: o.Quantity, Status: o.Status, PriceCents: o.PriceCents,
		TotalCents: o.TotalCents(), Currency: o.Currency, CreatedAt: o.CreatedAt, ExpiresAt: o.ExpiresAt}
}

func (a *api) placeOrder(c *gin.Context) {
	request, err := a.readOrder(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	placed, err := a.cfg.Orders.Place(c.Request.Context(), request)
	if err != nil {
		a.fail(c, err)
		return
	}
	if placed.Replayed {
		c.Header("Idempotent-Replayed", "true")
		// The first answer again, whatever has become of the order since.
		placed.Order.Status = order.Reserved
	}
	c.Header("Location", "/v1/orders/"+placed.Order.ID.String())
	c.JSON(http.StatusCreated, present(&placed.Order))
}

func (a *api) readOrder(c *gin.Context) (order.Request, error) {
	customer, err := a.verifier.customer(c)
	if err != nil {
		return order.Request{}, err
	}
	key, err := idempotencyKey(c)
	if err != nil {
		return order.Request{}, err
	}
	var body orderRequest
	if err := decode(c, &body); err != nil {
		return order.Request{}, err
	}
	var wrong fields
	checkSKU(&wrong, string(body.SKU))
	quantity := body.Quantity.between(&wrong, "quantity", 1, math.MaxInt32)
	return order.Request{SKU: string(body.SKU), Customer: customer, Key: key, Quantity: int32(quantity)}, wrong.problem()
}

func checkSKU(f *fields, sku string) {
	if !skuPattern.MatchString(sku) {
		f.add("sku", "must be 1 to 64 letters, digits, dots, underscores or hyphens, a letter or digit first")
	}
}

func (a *api) getOrder(c *gin.Context) {
	customer, err := a.verifier.customer(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	id, err := uuid.Parse(c.Param("id"))
	if err != nil {
		a.fail(c, order.ErrNotFound)
		return
	}
	o, err := a.cfg.Orders.Find(c.Request.Context(), customer, id)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	c.JSON(http.StatusOK, present(&o))
}

// unavailable makes an error of a read that is none of the domain's a 503: the
// database did not answer.
func unavailable(err error) error {
	if problemOf(err).Status != http.StatusInternalServerError {
		return err
	}
	return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
}
