package order_test

import (
	"fmt"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// The sale begins and ends by the database's clock, which all replicas share: one
// whose own clock is hours off sells when the others do.
func TestSaleWindowIsOfTheDatabasesClock(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 5 * time.Hour, "behind": -5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			forGuarded(t, func(t *testing.T, strategy string) {
				now := time.Now().Add(off).Truncate(time.Second)
				before, after := now.Add(-time.Hour), now.Add(time.Hour)
				dsn := newDSN(t, stock.Stock{Units: 5, SaleStartsAt: &before, SaleEndsAt: &after})
				service := startReplica(t, options{dsn: fmt.Sprintf("%s?@@timestamp=%d", dsn, now.Unix()), strategy: strategy})
				placed, err := service.Place(t.Context(), buy("ann", "k", 1))
				mustBe(t, "within the window", err, nil)
				if got := placed.Order.CreatedAt; got.Before(now) || got.After(after) {
					t.Errorf("the order was made at %s, by a clock that stands at %s", got, now)
				}
				change(t, service, stock.Stock{SaleStartsAt: &after})
				_, err = service.Place(t.Context(), buy("ben", "k", 1))
				mustBe(t, "before the window", err, order.ErrNotOpen)
				change(t, service, stock.Stock{SaleEndsAt: &before})
				_, err = service.Place(t.Context(), buy("ben", "k", 1))
				mustBe(t, "after the window", err, order.ErrOver)
			})
		})
	}
}
