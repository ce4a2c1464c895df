package httpapi

import (
	"encoding/base64"
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

// ListSKUs pages through all SKUs in their byte order. The cursor holds the last
// SKU of the page before, so that no page is longer in the reading than another.
func (a *api) ListSKUs(c *gin.Context, params spec.ListSKUsParams) {
	after, err := a.skuCursor(params.Cursor)
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
	if len(list) > limit {
		list = list[:limit]
		cursor := base64.RawURLEncoding.EncodeToString([]byte(list[limit-1].SKU))
		answer.NextCursor = &cursor
	}
	if unchanged(c, params.IfNoneMatch, tagOfPage(list, answer.NextCursor)) {
		return
	}
	answer.Items = make([]spec.SKU, len(list))
	for i := range list {
		answer.Items[i] = presentSKU(&list[i])
	}
	c.JSON(http.StatusOK, answer)
}

// limit is how long the page is to be. It was checked.
func (a *api) limit(given *spec.Limit) int {
	if given == nil {
		return a.pageSize
	}
	return *given
}

func (a *api) skuCursor(cursor *spec.Cursor) (string, error) {
	if cursor == nil || *cursor == "" {
		return "", nil
	}
	after, err := base64.RawURLEncoding.DecodeString(*cursor)
	if err != nil || a.skuName(string(after)) != "" {
		return "", kindInvalid.problem("See errors for each parameter.", fieldError{Field: "cursor", Message: "must be the next_cursor of a page"})
	}
	return string(after), nil
}
