package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"flashsale/client/wire"
)

// The types of what is sold, as the service's OpenAPI document has them.
type (
	// Order is a customer's units of one SKU.
	Order = wire.Order
	// OrderStatus is where an order stands in its life.
	OrderStatus = wire.OrderStatus
	// OrderID names an order.
	OrderID = uuid.UUID
)

// The statuses of an order. Cancelled and expired ones have returned their units.
const (
	Reserved  = wire.Reserved
	Paid      = wire.Paid
	Cancelled = wire.Cancelled
	Expired   = wire.Expired
)

// Purchase is what a customer wants.
type Purchase struct {
	SKU      string
	Quantity int32
	// PriceCents and Currency, where they are given, are what the customer was
	// shown as the price of one unit: the order is refused with ErrPriceChanged
	// where the SKU's is another.
	PriceCents *int64
	Currency   string
	// Key is the idempotency key, 1 to 255 characters of printable ASCII: one key
	// makes one order. "" is a new one for each call of Place. A program that may
	// die while it waits keeps a key of its own making, and calls again with it.
	Key string
}

// Placed is the answer to a Purchase.
type Placed struct {
	Order Order
	// Key is the idempotency key that the order stands under.
	Key string
	// Replayed: an earlier request with this key was the one that was served, be it
	// an earlier try of this same call. Order is as it was then.
	Replayed bool
	// Replica is the one that answered.
	Replica string
}

// Place reserves units for the payment window; an order that costs nothing is Paid
// at once. All tries have the same key.
//
// A refusal that comes after a try without an answer settles the matter, unless
// that try is still on its way: it may then make an order that nobody pays, and
// that expires.
func (c *Client) Place(ctx context.Context, p Purchase) (Placed, error) {
	key, header, err := idempotencyKey(p.Key)
	if err != nil {
		return Placed{}, fmt.Errorf("place an order: %w", err)
	}
	body := wire.OrderRequest{SKU: p.SKU, Quantity: p.Quantity, PriceCents: p.PriceCents}
	if p.Currency != "" {
		body.Currency = &p.Currency
	}
	placed := Placed{Key: key}
	got, err := c.do(ctx, call{what: "place an order", key: key, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.PlaceOrder(ctx, &wire.PlaceOrderParams{IdempotencyKey: header}, body)
	}}, &placed.Order)
	if err != nil {
		return Placed{}, err
	}
	placed.Replayed, placed.Replica = replayed(got), got.header.Get("X-Replica")
	return placed, nil
}

// Order reads one of the customer's own orders.
func (c *Client) Order(ctx context.Context, id OrderID) (Order, error) {
	var order Order
	_, err := c.do(ctx, call{what: "read an order", reads: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.GetOrder(ctx, id.String())
	}}, &order)
	return order, err
}

// Orders goes through the customer's own orders, the newest first. It reads a page
// at a time, as far as the loop goes. An error is its last pair.
func (c *Client) Orders(ctx context.Context) iter.Seq2[Order, error] {
	return pages(func(cursor *string) ([]Order, *string, error) {
		var page wire.OrderList
		_, err := c.do(ctx, call{what: "list orders", reads: true, send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
			return at.ListOrders(ctx, &wire.ListOrdersParams{Limit: &pageSize, Cursor: cursor})
		}}, &page)
		return page.Items, page.NextCursor, err
	})
}

// Pay says that an order was paid, under a reference of the payment service's, or
// "" for none. Saying it again is the same answer. What comes too late is
// ErrPaymentWindowOver or ErrOrderCancelled, and a second payment under another
// reference ErrAlreadyPaid: the service keeps the reference for a refund.
func (c *Client) Pay(ctx context.Context, id OrderID, reference string) (Order, error) {
	var (
		body  wire.PaymentRequest
		order Order
	)
	if reference != "" {
		body.Reference = &reference
	}
	_, err := c.do(ctx, call{what: "pay an order", send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.PayOrder(ctx, id.String(), body)
	}}, &order)
	return order, err
}

// Cancel ends an order that is not paid, and returns its units, once. Cancelling
// it again is the same answer.
func (c *Client) Cancel(ctx context.Context, id OrderID) (Order, error) {
	var order Order
	_, err := c.do(ctx, call{what: "cancel an order", send: func(ctx context.Context, at *wire.Client) (*http.Response, error) {
		return at.CancelOrder(ctx, id.String())
	}}, &order)
	return order, err
}

// maxKey is the longest idempotency key, in bytes.
const maxKey = 255

// idempotencyKey is the key, or a new one, and the header that it is sent as: the
// quoted string of the IETF's draft, which may hold any printable ASCII.
func idempotencyKey(key string) (same, header string, err error) {
	if key == "" {
		key = uuid.NewString()
	}
	if len(key) > maxKey {
		return "", "", fmt.Errorf("the idempotency key has %d bytes, %d are the most", len(key), maxKey)
	}
	if i := strings.IndexFunc(key, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return "", "", fmt.Errorf("the idempotency key is not of printable ASCII: %q", key)
	}
	return key, `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`, nil
}

// replayed reports whether an earlier request was the one that was served.
func replayed(got *answer) bool { return got.header.Get("Idempotent-Replayed") == "true" }

// pageSize is the most that the service lists at a time.
var pageSize = 200

// pages goes through the items of all pages.
func pages[T any](read func(cursor *string) (items []T, next *string, err error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var cursor *string
		for {
			items, next, err := read(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range items {
				if !yield(item, nil) {
					return
				}
			}
			if next == nil {
				return
			}
			cursor = next
		}
	}
}
