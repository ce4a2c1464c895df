package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"flashsale/client"
)

// A storefront places an order for a customer, pays it, and handles the problems
// that a buyer can meet.
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
		fmt.Println("The lamps are sold out.")
		return
	case errors.Is(err, client.ErrInsufficientStock):
		fmt.Println("A smaller quantity may succeed.")
		return
	case err != nil:
		log.Fatal(err)
	}
	fmt.Println("Pay until", placed.Order.ExpiresAt)
	if _, err := shop.Pay(ctx, placed.Order.ID, client.Payment{Reference: "payment-42"}); err != nil {
		log.Fatal(err)
	}
}

// A program that may crash stores the key before the call, and repeats the call
// after a restart. One key creates one order.
func ExampleClient_Place() {
	var shop *client.Client // see the package example
	key := "cart-4711"      // from the program's database
	placed, err := shop.Place(context.Background(), client.Purchase{SKU: "lamp", Quantity: 1, Key: key})
	if gaveUp, ok := errors.AsType[*client.GaveUp](err); ok && gaveUp.Unknown {
		fmt.Println("The order may exist. Call Place again with the key", gaveUp.Key)
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(placed.Order.ID, placed.Replayed)
}

// The loop reads only the pages that it needs.
func ExampleClient_Orders() {
	var shop *client.Client // see the package example
	for order, err := range shop.Orders(context.Background()) {
		if err != nil {
			log.Fatal(err)
		}
		if order.Status == client.Reserved {
			fmt.Println("Pay until", order.ExpiresAt)
			break
		}
	}
}

// A payment that came too late must be refunded.
func ExampleClient_Pay() {
	var (
		shop *client.Client // see the package example
		id   client.OrderID
	)
	_, err := shop.Pay(context.Background(), id, client.Payment{Reference: "payment-42"})
	switch {
	case errors.Is(err, client.ErrPaymentWindowOver), errors.Is(err, client.ErrOrderCancelled), errors.Is(err, client.ErrAlreadyPaid):
		fmt.Println("Refund payment-42.")
	case err != nil:
		log.Fatal(err)
	}
}

// Only unpaid orders can be cancelled.
func ExampleClient_Cancel() {
	var (
		shop *client.Client // see the package example
		id   client.OrderID
	)
	order, err := shop.Cancel(context.Background(), id)
	switch {
	case errors.Is(err, client.ErrAlreadyPaid), errors.Is(err, client.ErrOrderExpired):
		fmt.Println("It is too late to cancel.")
	case err != nil:
		log.Fatal(err)
	default:
		fmt.Println(order.Status)
	}
}

// A Problem has the details of an error answer: the wrong fields of a form, for
// example.
func ExampleProblem() {
	var shop *client.Client // see the package example
	_, err := shop.Place(context.Background(), client.Purchase{SKU: "lamp", Quantity: -1})
	if problem, ok := errors.AsType[*client.Problem](err); ok {
		for _, field := range problem.Fields {
			fmt.Println(field.Field, field.Message)
		}
		fmt.Println("See /errors/" + string(problem.Kind))
	}
}

// A storefront shows the stock as it changes.
func ExampleClient_Watch() {
	var shop *client.Client // see the package example
	for event, err := range shop.Watch(context.Background(), "lamp") {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Available, "of", event.Units, "left")
	}
}

// An administrator halves a price, unless another administrator has changed the SKU
// in the meantime.
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
		fmt.Println("Read the SKU again.")
	}
}
