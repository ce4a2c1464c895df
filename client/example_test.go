package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"flashsale/client"
)

// A storefront places an order for a customer, and says what became of it.
func Example() {
	ctx := context.Background()
	shop, err := client.New(client.Config{
		URLs:  []string{"http://shop-1.example:8080", "http://shop-2.example:8080"},
		Token: client.StaticToken(os.Getenv("CUSTOMER_TOKEN")),
	})
	if err != nil {
		log.Fatal(err)
	}
	placed, err := shop.Place(ctx, client.Purchase{SKU: "lamp", Quantity: 1})
	switch {
	case errors.Is(err, client.ErrSoldOut):
		fmt.Println("The lamps are gone.")
	case errors.Is(err, client.ErrInsufficientStock):
		fmt.Println("A smaller quantity may succeed.")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println("Pay until", placed.Order.ExpiresAt)
	}
}

// A program that may die while it waits keeps the key first. When it runs again
// it makes the same call: the order stands once, however often that happens.
func ExampleClient_Place() {
	var shop *client.Client // see the package's example
	key := "cart-4711"      // from a database of the program's own
	placed, err := shop.Place(context.Background(), client.Purchase{SKU: "lamp", Quantity: 1, Key: key})
	if gaveUp, ok := errors.AsType[*client.GaveUp](err); ok && gaveUp.Unknown {
		fmt.Println("It may stand. Ask again with", gaveUp.Key)
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(placed.Order.ID, placed.Replayed)
}

// Only the orders that are needed are read.
func ExampleClient_Orders() {
	var shop *client.Client // see the package's example
	for order, err := range shop.Orders(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if order.Status == client.Reserved {
			fmt.Println("to be paid until", order.ExpiresAt)
			break
		}
	}
}

// A payment that comes too late is no sale: the money goes back.
func ExampleClient_Pay() {
	var (
		shop *client.Client // see the package's example
		id   client.OrderID
	)
	_, err := shop.Pay(context.Background(), id, "payment-42")
	switch {
	case errors.Is(err, client.ErrPaymentWindowOver), errors.Is(err, client.ErrOrderCancelled), errors.Is(err, client.ErrAlreadyPaid):
		fmt.Println("refund payment-42")
	case err != nil:
		log.Fatal(err)
	}
}

// An administrator changes a price, unless another has changed the SKU meanwhile.
func ExampleClient_PutSKU() {
	ctx := context.Background()
	shop, err := client.New(client.Config{
		URLs: []string{"http://shop-1.example:8080"}, Token: client.StaticToken(os.Getenv("FLASHSALE_ADMIN_TOKEN")),
	})
	if err != nil {
		log.Fatal(err)
	}
	lamp, etag, err := shop.SKU(ctx, "lamp")
	if err != nil {
		log.Fatal(err)
	}
	_, err = shop.PutSKU(ctx, "lamp", client.SKURequest{
		Name: lamp.Name, Currency: lamp.Currency, Units: lamp.Units, PriceCents: lamp.PriceCents / 2,
	}, client.IfMatch(etag))
	if errors.Is(err, client.ErrPreconditionFailed) {
		fmt.Println("Look again.")
	}
}
