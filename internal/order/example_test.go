package order_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// One unit is sold once. A retry with the same key gets the same order.
func ExampleService() {
	ctx := context.Background()
	dsn, err := servers.MySQL.CreateDatabase(ctx, "example")
	if err != nil {
		panic(err)
	}
	db, err := stock.Open(dsn, 4)
	if err != nil {
		panic(err)
	}
	defer func() { _ = db.Close() }()
	if err := db.Migrate(ctx); err != nil {
		panic(err)
	}

	conditional, err := strategy.Find("conditional") // it needs no lock
	if err != nil {
		panic(err)
	}
	orders := order.New(order.Config{DB: db, Strategy: conditional, Fence: strategy.FenceOff,
		PaymentWindow: 15 * time.Minute, RequestTimeout: 10 * time.Second, Logger: slog.Default()})
	defer func() { _ = orders.Close(ctx) }()

	sneaker := stock.Stock{SKU: "sneaker", Name: "Sneaker", PriceCents: 9900, Currency: "EUR", Units: 1}
	if _, _, err := orders.PutSKU(ctx, sneaker, order.Precondition{}); err != nil {
		panic(err)
	}

	request := order.Request{SKU: "sneaker", Customer: "ann", Key: "key-1", Quantity: 1}
	first, err := orders.Place(ctx, request)
	fmt.Println("ann:", first.Order.Status, err)

	retry, err := orders.Place(ctx, request)
	fmt.Println("ann again:", retry.Order.ID == first.Order.ID, retry.Replayed, err)

	_, err = orders.Place(ctx, order.Request{SKU: "sneaker", Customer: "ben", Key: "key-2", Quantity: 1})
	fmt.Println("ben:", err)

	paid, err := orders.Pay(ctx, order.Payment{Customer: "ann", Order: first.Order.ID, Reference: "payment-1"})
	fmt.Println("ann pays:", paid.Status, err)

	// Output:
	// ann: reserved <nil>
	// ann again: true true <nil>
	// ben: sold out
	// ann pays: paid <nil>
}
