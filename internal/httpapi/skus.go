package httpapi

import (
	"context"
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
		PerCustomerLimit: s.PerCustomerLimit, HoldPolicy: spec.HoldPolicy(s.HoldPolicy), SaleStartsAt: s.SaleStartsAt, SaleEndsAt: s.SaleEndsAt,
		VisibleFrom: s.VisibleFrom, WithdrawnAt: s.WithdrawnAt}
}

// PutSKU creates or changes a SKU. Its units count on creation only: later they
// would overwrite what has been sold since the caller read the SKU.
func (a *api) PutSKU(c *gin.Context, sku spec.SKUInPath, params spec.PutSKUParams) {
	a.serve(c, func(ctx context.Context) (any, error) {
		want, err := a.readSKU(c, sku)
		if err != nil {
			return nil, err
		}
		only, err := preconditions(params.IfMatch, params.IfNoneMatch)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout)
		defer cancel()
		got, created, err := stock.Stock{}, false, order.ErrPrecondition
		for i := 0; i < len(only) && errors.Is(err, order.ErrPrecondition); i++ {
			got, created, err = a.cfg.Orders.PutSKU(ctx, want, only[i])
		}
		if err != nil {
			return nil, err
		}
		c.Header("ETag", tagOf(&got))
		if created {
			c.Status(http.StatusCreated)
		} else if want.Units != got.Units {
			c.Header("Warning", `299 - "units were ignored: they count on creation only"`)
		}
		return presentSKU(&got), nil
	})
}

func (a *api) readSKU(c *gin.Context, sku string) (stock.Stock, error) {
	if message := a.checkSKU(sku); message != "" {
		return stock.Stock{}, kindInvalid.problem("The SKU in the path is invalid.", fieldError{Field: "sku", Message: message})
	}
	body, err := decode[spec.SKURequest](c)
	if err != nil {
		return stock.Stock{}, err
	}
	want := stock.Stock{SKU: sku, Name: body.Name, PriceCents: body.PriceCents, Currency: body.Currency, Units: body.Units,
		PerCustomerLimit: body.PerCustomerLimit, HoldPolicy: stock.Lenient, VisibleFrom: toMicroseconds(body.VisibleFrom), SaleStartsAt: toMicroseconds(body.SaleStartsAt), SaleEndsAt: toMicroseconds(body.SaleEndsAt)}
	if want.SaleStartsAt != nil && want.SaleEndsAt != nil && !want.SaleStartsAt.Before(*want.SaleEndsAt) {
		return stock.Stock{}, kindInvalid.problem("The sale would end before it starts.",
			fieldError{Field: "sale_ends_at", Message: "must be after sale_starts_at"})
	}
	if body.HoldPolicy != nil {
		want.HoldPolicy = stock.HoldPolicy(*body.HoldPolicy)
	}
	if want.HoldPolicy == stock.Strict && want.PerCustomerLimit == nil {
		return stock.Stock{}, kindInvalid.problem("A strict hold policy needs a limit for each customer.",
			fieldError{Field: "hold_policy", Message: "needs per_customer_limit"})
	}
	switch {
	case want.VisibleFrom == nil:
	case want.SaleStartsAt != nil && want.VisibleFrom.After(*want.SaleStartsAt):
		return stock.Stock{}, kindInvalid.problem("The sale would start before the SKU is announced.",
			fieldError{Field: "visible_from", Message: "must not be after sale_starts_at"})
	case want.SaleEndsAt != nil && !want.VisibleFrom.Before(*want.SaleEndsAt):
		return stock.Stock{}, kindInvalid.problem("The sale would end before the SKU is announced.",
			fieldError{Field: "visible_from", Message: "must be before sale_ends_at"})
	}
	return want, nil
}

// toMicroseconds returns t as a DATETIME(6) stores it.
func toMicroseconds(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC().Truncate(time.Microsecond))
}

func (a *api) GetSKU(c *gin.Context, sku spec.SKUInPath, _ spec.GetSKUParams) {
	a.serve(c, func(ctx context.Context) (any, error) {
		s, err := a.findSKU(ctx, sku)
		if err != nil || notModified(c, tagOf(&s), revalidate) {
			return nil, err
		}
		return presentSKU(&s), nil
	})
}

// WithdrawSKU takes a SKU off the list and off sale.
func (a *api) WithdrawSKU(c *gin.Context, sku spec.SKUInPath, params spec.WithdrawSKUParams) {
	a.serve(c, func(ctx context.Context) (any, error) {
		if a.checkSKU(sku) != "" {
			return nil, stock.ErrUnknownSKU
		}
		only, err := preconditions(params.IfMatch, nil)
		if err != nil {
			return nil, err
		}
		err = order.ErrPrecondition
		for i := 0; i < len(only) && errors.Is(err, order.ErrPrecondition); i++ {
			err = a.cfg.Orders.Withdraw(ctx, sku, only[i])
		}
		if err == nil {
			c.Status(http.StatusNoContent)
		}
		return nil, err
	})
}

// GetAnySKU reads a SKU as MySQL has it: an administrator may change what it shows.
func (a *api) GetAnySKU(c *gin.Context, sku spec.SKUInPath) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		if a.checkSKU(sku) != "" {
			return nil, stock.ErrUnknownSKU
		}
		s, err := a.cfg.Stock.Get(ctx, sku)
		if err != nil {
			return nil, err
		}
		c.Header("ETag", tagOf(&s))
		return presentSKU(&s), nil
	})
}

// findSKU reads a listed SKU. An invalid name is reported as not found.
func (a *api) findSKU(ctx context.Context, sku string) (stock.Stock, error) {
	if a.checkSKU(sku) != "" {
		return stock.Stock{}, stock.ErrUnknownSKU
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.RequestTimeout)
	defer cancel()
	s, err := a.cfg.Catalog.Get(ctx, sku)
	return s, unavailable(err)
}

func (a *api) RestockSKU(c *gin.Context, sku spec.SKUInPath, params spec.RestockSKUParams) {
	a.serve(c, func(ctx context.Context) (any, error) {
		if a.checkSKU(sku) != "" {
			return nil, stock.ErrUnknownSKU
		}
		key, err := idempotencyKey(params.IdempotencyKey)
		if err != nil {
			return nil, err
		}
		body, err := decode[spec.RestockRequest](c)
		if err != nil {
			return nil, err
		}
		done, err := a.cfg.Orders.Restock(ctx, order.RestockRequest{SKU: sku, Key: key, Units: body.Units})
		if errors.Is(err, stock.ErrTooManyUnits) {
			err = kindInvalid.problem("The SKU would have too many units.", fieldError{Field: "units", Message: "must be smaller: the SKU's total has a limit"})
		}
		if err != nil {
			return nil, err
		}
		created(c, done.Replayed)
		r := done.Restock
		return spec.Restock{ID: r.ID, SKU: r.SKU, Units: r.Units, CreatedAt: r.CreatedAt}, nil
	})
}

// readSKUs reads a page of SKUs.
func (a *api) readSKUs(cursor *spec.Cursor, limit *spec.Limit, list func(after string, limit int) ([]stock.Stock, error)) ([]stock.Stock, *spec.NextCursor, error) {
	return readPage(a, cursor, limit, func(s *stock.Stock) string { return s.SKU }, func(sku string) bool { return a.checkSKU(sku) == "" }, list)
}

func (a *api) ListAllSKUs(c *gin.Context, params spec.ListAllSKUsParams) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		list, next, err := a.readSKUs(params.Cursor, params.Limit, func(after string, limit int) ([]stock.Stock, error) {
			return a.cfg.Stock.List(ctx, after, limit)
		})
		return spec.SKUList{Items: presentAll(list, presentSKU), NextCursor: next}, err
	})
}

func (a *api) ListSKUs(c *gin.Context, params spec.ListSKUsParams) {
	a.serveBounded(c, func(ctx context.Context) (any, error) {
		list, next, err := a.readSKUs(params.Cursor, params.Limit, func(after string, limit int) ([]stock.Stock, error) {
			return a.cfg.Catalog.List(ctx, after, limit)
		})
		if err != nil || notModified(c, tagOfPage(list, next), revalidate) {
			return nil, err
		}
		return spec.SKUList{Items: presentAll(list, presentSKU), NextCursor: next}, nil
	})
}
