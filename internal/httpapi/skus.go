package httpapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"flashsale/internal/httpapi/spec"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

func presentSKU(s *stock.Stock) spec.SKU {
	return spec.SKU{SKU: s.SKU, Name: s.Name, PriceCents: s.PriceCents, Currency: s.Currency, Units: s.Units, Available: s.Available,
		PerCustomerLimit: s.PerCustomerLimit, SaleStartsAt: s.SaleStartsAt, SaleEndsAt: s.SaleEndsAt}
}

// PutSKU creates a SKU, or changes one. Its units count on creation only: later
// they would overwrite what has been sold since the caller last looked.
func (a *api) PutSKU(c *gin.Context, sku spec.SKUInPath, params spec.PutSKUParams) {
	want, err := a.readSKU(c, sku)
	if err != nil {
		a.fail(c, err)
		return
	}
	only, err := preconditions(params)
	if err != nil {
		a.fail(c, err)
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	got, created, err := stock.Stock{}, false, order.ErrPrecondition
	for i := 0; i < len(only) && errors.Is(err, order.ErrPrecondition); i++ {
		got, created, err = a.cfg.Orders.PutSKU(ctx, want, only[i])
	}
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	c.Header("ETag", tagOf(&got))
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	} else if want.Units != got.Units {
		c.Header("Warning", `299 - "units were ignored: they count on creation only"`)
	}
	c.JSON(status, presentSKU(&got))
}

func (a *api) readSKU(c *gin.Context, sku string) (stock.Stock, error) {
	if message := a.skuName(sku); message != "" {
		return stock.Stock{}, kindInvalid.problem("The path has no SKU that can be.", fieldError{Field: "sku", Message: message})
	}
	var body spec.SKURequest
	if err := callOf(c).decode(&body); err != nil {
		return stock.Stock{}, err
	}
	want := stock.Stock{SKU: sku, Name: body.Name, PriceCents: body.PriceCents, Currency: body.Currency, Units: body.Units,
		PerCustomerLimit: body.PerCustomerLimit, SaleStartsAt: instant(body.SaleStartsAt), SaleEndsAt: instant(body.SaleEndsAt)}
	if want.SaleStartsAt != nil && want.SaleEndsAt != nil && !want.SaleStartsAt.Before(*want.SaleEndsAt) {
		return stock.Stock{}, kindInvalid.problem("The sale would end before it begins.",
			fieldError{Field: "sale_ends_at", Message: "must be after sale_starts_at"})
	}
	return want, nil
}

// instant is t as a DATETIME(6) keeps it.
func instant(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	kept := t.UTC().Truncate(time.Microsecond)
	return &kept
}

// GetSKU shows one SKU. What can be no SKU's name is no SKU.
func (a *api) GetSKU(c *gin.Context, sku spec.SKUInPath, params spec.GetSKUParams) {
	if a.skuName(sku) != "" {
		a.fail(c, stock.ErrUnknownSKU)
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	s, err := a.cfg.Catalog.Get(ctx, sku)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	if !unchanged(c, params.IfNoneMatch, tagOf(&s)) {
		c.JSON(http.StatusOK, presentSKU(&s))
	}
}

// RestockSKU puts more units on sale, once for each key.
func (a *api) RestockSKU(c *gin.Context, sku spec.SKUInPath, params spec.RestockSKUParams) {
	if a.skuName(sku) != "" {
		a.fail(c, stock.ErrUnknownSKU)
		return
	}
	key, err := idempotencyKey(params.IdempotencyKey)
	if err != nil {
		a.fail(c, err)
		return
	}
	var body spec.RestockRequest
	if err := callOf(c).decode(&body); err != nil {
		a.fail(c, err)
		return
	}
	done, err := a.cfg.Orders.Restock(c.Request.Context(), order.RestockRequest{SKU: sku, Key: key, Units: body.Units})
	switch {
	case errors.Is(err, stock.ErrTooManyUnits):
		a.fail(c, kindInvalid.problem("The SKU cannot have so many units.", fieldError{Field: "units", Message: "must leave the SKU with fewer units"}))
	case err != nil:
		a.fail(c, err)
	default:
		if done.Replayed {
			c.Header("Idempotent-Replayed", "true")
		}
		r := done.Restock
		c.JSON(http.StatusCreated, spec.Restock{ID: r.ID, SKU: r.SKU, Units: r.Units, CreatedAt: r.CreatedAt})
	}
}

// ListSKUs pages through all SKUs in their byte order.
func (a *api) ListSKUs(c *gin.Context, params spec.ListSKUsParams) {
	after, err := readCursor(params.Cursor, func(place []byte) (string, bool) { return string(place), a.skuName(string(place)) == "" })
	if err != nil {
		a.fail(c, err)
		return
	}
	ctx, cancel := a.bounded(c)
	defer cancel()
	limit := a.limit(params.Limit)
	list, err := a.cfg.Catalog.List(ctx, after, limit+1)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	var answer spec.SKUList
	list, answer.NextCursor = nextPage(list, limit, func(s *stock.Stock) []byte { return []byte(s.SKU) })
	if unchanged(c, params.IfNoneMatch, tagOfPage(list, answer.NextCursor)) {
		return
	}
	answer.Items = make([]spec.SKU, len(list))
	for i := range list {
		answer.Items[i] = presentSKU(&list[i])
	}
	c.JSON(http.StatusOK, answer)
}
