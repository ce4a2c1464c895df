package httpapi

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

type skuRequest struct {
	Name             text     `json:"name"`
	PriceCents       integer  `json:"price_cents"`
	Currency         text     `json:"currency"`
	Units            integer  `json:"units"`
	PerCustomerLimit *integer `json:"per_customer_limit"`
	SaleStartsAt     *string  `json:"sale_starts_at"`
	SaleEndsAt       *string  `json:"sale_ends_at"`
}

type skuResponse struct {
	SKU              string     `json:"sku"`
	Name             string     `json:"name"`
	PriceCents       int64      `json:"price_cents"`
	Currency         string     `json:"currency"`
	Units            int64      `json:"units"`
	Available        int64      `json:"available"`
	PerCustomerLimit *int32     `json:"per_customer_limit"`
	SaleStartsAt     *time.Time `json:"sale_starts_at"`
	SaleEndsAt       *time.Time `json:"sale_ends_at"`
}

func presentSKU(s *stock.Stock) skuResponse {
	return skuResponse{SKU: s.SKU, Name: s.Name, PriceCents: s.PriceCents, Currency: s.Currency, Units: s.Units, Available: s.Available,
		PerCustomerLimit: s.PerCustomerLimit, SaleStartsAt: s.SaleStartsAt, SaleEndsAt: s.SaleEndsAt}
}

const (
	maxName = 255
	// maxPrice times the most units of one order is just within an int64.
	maxPrice = math.MaxInt64 / math.MaxInt32

	defaultPage = 50
	maxPage     = 200
)

var currencyPattern = regexp.MustCompile(`^[A-Z]{3}$`)

// putSKU creates a SKU, or changes one. Its units count on creation only: later
// they would overwrite what has been sold since the caller last looked.
func (a *api) putSKU(c *gin.Context) {
	want, err := readSKU(c)
	if err != nil {
		a.fail(c, err)
		return
	}
	got, created, err := a.cfg.Orders.PutSKU(c.Request.Context(), want, order.Precondition{})
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	} else if want.Units != got.Units {
		c.Header("Warning", `299 - "units were ignored: they count on creation only"`)
	}
	c.JSON(status, presentSKU(&got))
}

func readSKU(c *gin.Context) (stock.Stock, error) {
	var body skuRequest
	if err := decode(c, &body); err != nil {
		return stock.Stock{}, err
	}
	var wrong fields
	want := stock.Stock{SKU: c.Param("sku"), Name: string(body.Name), Currency: string(body.Currency)}
	checkSKU(&wrong, want.SKU)
	if n := utf8.RuneCountInString(want.Name); n == 0 || n > maxName {
		wrong.add("name", fmt.Sprintf("must have 1 to %d characters", maxName))
	}
	want.PriceCents = body.PriceCents.between(&wrong, "price_cents", 0, maxPrice)
	if !currencyPattern.MatchString(want.Currency) {
		wrong.add("currency", "must be three capital letters of ISO 4217, like EUR")
	}
	want.Units = body.Units.between(&wrong, "units", 0, math.MaxInt32)
	if body.PerCustomerLimit != nil {
		limit := int32(body.PerCustomerLimit.between(&wrong, "per_customer_limit", 1, math.MaxInt32))
		want.PerCustomerLimit = &limit
	}
	want.SaleStartsAt = instant(&wrong, "sale_starts_at", body.SaleStartsAt)
	want.SaleEndsAt = instant(&wrong, "sale_ends_at", body.SaleEndsAt)
	if want.SaleStartsAt != nil && want.SaleEndsAt != nil && !want.SaleStartsAt.Before(*want.SaleEndsAt) {
		wrong.add("sale_ends_at", "must be after sale_starts_at")
	}
	return want, wrong.problem()
}

func (a *api) getSKU(c *gin.Context) {
	sku := c.Param("sku")
	if !skuPattern.MatchString(sku) {
		a.fail(c, stock.ErrUnknownSKU)
		return
	}
	s, err := a.cfg.Catalog.Get(c.Request.Context(), sku)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	c.JSON(http.StatusOK, presentSKU(&s))
}

// listSKUs pages through all SKUs in their byte order. The cursor holds the last
// SKU of the page before, so that no page is longer in the reading than another.
func (a *api) listSKUs(c *gin.Context) {
	var wrong fields
	limit := defaultPage
	if text, given := c.GetQuery("limit"); given {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxPage {
			wrong.add("limit", fmt.Sprintf("must be from 1 to %d", maxPage))
		}
		limit = n
	}
	after, err := base64.RawURLEncoding.DecodeString(c.Query("cursor"))
	if err != nil || len(after) > 0 && !skuPattern.Match(after) {
		wrong.add("cursor", "must be the next_cursor of a page")
	}
	if err := wrong.problem(); err != nil {
		a.fail(c, err)
		return
	}
	list, err := a.cfg.Catalog.List(c.Request.Context(), string(after), limit+1)
	if err != nil {
		a.fail(c, unavailable(err))
		return
	}
	var next *string
	if len(list) > limit {
		list = list[:limit]
		cursor := base64.RawURLEncoding.EncodeToString([]byte(list[limit-1].SKU))
		next = &cursor
	}
	items := make([]skuResponse, len(list))
	for i := range list {
		items[i] = presentSKU(&list[i])
	}
	c.JSON(http.StatusOK, gin.H{"items": items, "next_cursor": next})
}
