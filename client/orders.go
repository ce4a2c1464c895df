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

// The types of orders, generated from the OpenAPI document.
type (
	// Order is a customer's order of units of one SKU.
	Order = wire.Order
	// OrderStatus is the state of an order.
	OrderStatus = wire.OrderStatus
	// OrderID identifies an order.
	OrderID = uuid.UUID
)

// The statuses of an order. The units of cancelled and expired orders are on sale
// again.
const (
	Reserved  = wire.Reserved
	Paid      = wire.Paid
	Cancelled = wire.Cancelled
	Expired   = wire.Expired
)

// Purchase is a customer's request for an order.
type Purchase struct {
	SKU      string
	Quantity int32
	// PriceCents and Currency are the price of one unit that the customer was
	// shown. The order fails with ErrPriceChanged if the SKU has another price.
	// Both are optional.
	PriceCents *int64
	Currency   string
	// Key is the idempotency key, 1 to 255 printable ASCII characters. One key
	// creates one order. "" creates a new key for each call of Place. A program
	// that may crash should store its own key first, and call again with it.
	Key string
}

// Placed is the result of Client.Place.
type Placed struct {
	Order Order
	// Key is the order's idempotency key.
	Key string
	// Replayed is true if an earlier request with this key created the order,
	// possibly an earlier try of the same call. Order has the state of that time.
	Replayed bool
	// Replica is the replica that answered.
	Replica string
}

// Place creates an order, which reserves its units for the payment window. An order
// with a total of 0 is Paid at once. All tries have the same key.
//
// A refusal after a try without an answer is final, unless that try is still in
// flight: it may then create an order that expires unpaid.
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
	request, err := wire.NewPlaceOrderRequest(anyReplica, &wire.PlaceOrderParams{IdempotencyKey: header}, body)
	got, err := c.do(ctx, call{what: "place an order", key: key}.with(request, err), &placed.Order)
	if err != nil {
		return Placed{}, err
	}
	placed.Replayed, placed.Replica = got.header.Get("Idempotent-Replayed") == "true", got.header.Get("X-Replica")
	return placed, nil
}

// Order reads one of the customer's orders.
func (c *Client) Order(ctx context.Context, id OrderID) (Order, error) {
	return fetch[Order](ctx, c, call{what: "read an order", reads: true}.with(wire.NewGetOrderRequest(anyReplica, id.String())))
}

// Orders lists the customer's orders, newest first. It reads pages as the loop
// proceeds. The last pair has an error if reading failed.
func (c *Client) Orders(ctx context.Context) iter.Seq2[Order, error] {
	return list[Order](ctx, c, "list orders", func(cursor *string) (*http.Request, error) {
		return wire.NewListOrdersRequest(anyReplica, &wire.ListOrdersParams{Limit: &pageSize, Cursor: cursor})
	})
}

// Payment is what paid an order. If the service runs with --payments service, all fields
// are required, and the token needs the scope payment. Otherwise they are optional.
type Payment struct {
	// Reference is the payment service's id of the payment, at most 255 bytes.
	Reference string
	// AmountCents and Currency must be the order's TotalCents and Currency.
	AmountCents *int64
	Currency    string
}

// Pay records that an order was paid. It may be repeated. It returns ErrPaymentWindowOver
// or ErrOrderCancelled if the payment came too late, ErrPaymentMismatch if its amount is
// not the order's, and ErrAlreadyPaid for a second payment with another reference. The
// service stores the reference of each for a refund. It returns ErrPaymentReferenceUsed
// for the reference of another order.
func (c *Client) Pay(ctx context.Context, id OrderID, p Payment) (Order, error) {
	body := wire.PaymentRequest{AmountCents: p.AmountCents}
	if p.Reference != "" {
		body.Reference = &p.Reference
	}
	if p.Currency != "" {
		body.Currency = &p.Currency
	}
	return fetch[Order](ctx, c, call{what: "pay an order"}.with(wire.NewPayOrderRequest(anyReplica, id.String(), body)))
}

// Cancel cancels an unpaid order, and returns its units to the sale. It may be
// repeated.
func (c *Client) Cancel(ctx context.Context, id OrderID) (Order, error) {
	return fetch[Order](ctx, c, call{what: "cancel an order"}.with(wire.NewCancelOrderRequest(anyReplica, id.String())))
}

// maxKey is the longest idempotency key, in bytes.
const maxKey = 255

// idempotencyKey returns the key, or a new one for "", and its header: the quoted
// string of the IETF draft.
func idempotencyKey(key string) (same, header string, err error) {
	if key == "" {
		key = uuid.NewString()
	}
	if len(key) > maxKey {
		return "", "", fmt.Errorf("the idempotency key has %d bytes; at most %d are allowed", len(key), maxKey)
	}
	if i := strings.IndexFunc(key, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return "", "", fmt.Errorf("the idempotency key must be printable ASCII: %q", key)
	}
	return key, `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`, nil
}

// pageSize is the service's longest page.
var pageSize = 200

// list iterates over the items of all pages. newRequest returns the request of the
// page at a cursor, nil for the first.
func list[T any](ctx context.Context, c *Client, what string, newRequest func(cursor *string) (*http.Request, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor, first := (*string)(nil), true; first || cursor != nil; first = false {
			var page struct {
				Items      []T     `json:"items"`
				NextCursor *string `json:"next_cursor"`
			}
			if _, err := c.do(ctx, call{what: what, reads: true}.with(newRequest(cursor)), &page); err != nil {
				yield(*new(T), err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
			cursor = page.NextCursor
		}
	}
}
