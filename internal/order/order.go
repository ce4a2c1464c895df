// Package order takes orders for units of a SKU: the domain, the desk that sells
// one SKU, and the ways to guard an order that the registry of strategies lists.
// It guarantees one order for one idempotency key, and an answer that the
// database bears out: what cannot be known in time is said to be unknown.
// HTTP is left to httpapi, the stock row to stock, exclusion to lock.
package order

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"github.com/google/uuid"
)

// ID names an order: a UUID of version 7, made before the order is written, so
// that its own writer can find it again whatever became of the commit.
type ID = uuid.UUID

// Status is where an order stands in its life.
type Status string

// The statuses. Cancelled and expired orders have returned their units.
const (
	Reserved  Status = "reserved"
	Paid      Status = "paid"
	Cancelled Status = "cancelled"
	Expired   Status = "expired"
)

// Order is a customer's units of one SKU. Times are the database's clock in UTC.
type Order struct {
	ID       ID
	SKU      string
	Customer string
	// Key is the customer's idempotency key.
	Key         string
	Fingerprint Fingerprint
	Quantity    int32
	// PriceCents is the price of one unit, and Limit the per-customer limit,
	// as they stood when the order was made.
	PriceCents int64
	Currency   string
	Limit      *int32
	Status     Status
	// Fence and Seq are those of the write to stock that admitted the order.
	Fence     uint64
	Seq       uint64
	CreatedAt time.Time
	ExpiresAt time.Time
	// ClosedAt is when it was paid, cancelled or expired; nil while reserved.
	ClosedAt *time.Time
	// PaymentReference is what the payment that paid it is called; empty where
	// none was given.
	PaymentReference string
}

// TotalCents is the price of the whole order.
func (o *Order) TotalCents() int64 { return int64(o.Quantity) * o.PriceCents }

// asMade gives the order the state in which it was made, whatever has become of it
// since. An order that costs nothing is made paid: no payment comes for it, and it
// must not expire.
func (o *Order) asMade() {
	o.Status, o.ClosedAt, o.PaymentReference = Reserved, nil, ""
	if o.TotalCents() == 0 {
		o.Status, o.ClosedAt = Paid, new(o.CreatedAt)
	}
}

// Request is what a customer asks for.
type Request struct {
	SKU      string
	Customer string
	Key      string
	Quantity int32
	// PriceCents, if not nil, and Currency, if not empty, are what the customer
	// was shown as the price of one unit: the order is refused with
	// ErrPriceChanged where the SKU's is another.
	PriceCents *int64
	Currency   string

	// id is the order's, made before it is sent anywhere: an order that stands under
	// it was made by this request, however often that was sent again.
	id ID
}

// Fingerprint tells apart two requests that came with the same key.
type Fingerprint [sha256.Size]byte

// Fingerprint is over what the body means, not over its bytes: white space and
// the order of fields make no other request of it.
func (r *Request) Fingerprint() Fingerprint {
	var text [4 + 64 + 1 + 8 + 3]byte
	buf := append(binary.BigEndian.AppendUint32(text[:0], uint32(r.Quantity)), r.SKU...)
	if r.PriceCents != nil || r.Currency != "" {
		buf = append(buf, 0) // names of SKUs have none
		if r.PriceCents != nil {
			buf = binary.BigEndian.AppendUint64(buf, uint64(*r.PriceCents))
		}
		buf = append(buf, r.Currency...) // of three letters, which no price is
	}
	return sha256.Sum256(buf)
}

// Placed is the answer to a Request.
type Placed struct {
	Order Order
	// Replayed: the order was made by an earlier request with the same key.
	Replayed bool
}

// The refusals. Each changed nothing, and is not stored: the same key may
// succeed later.
var (
	ErrSoldOut       = errors.New("sold out")
	ErrInsufficient  = errors.New("fewer units are left than were asked for")
	ErrNotOpen       = errors.New("the sale has not begun")
	ErrOver          = errors.New("the sale is over")
	ErrCustomerLimit = errors.New("the limit for one customer is reached")
	// ErrPriceChanged: the price is not the one that the customer was shown.
	ErrPriceChanged = errors.New("the price is another than was shown")
	// ErrKeyReused: the key stands with an order of another body.
	ErrKeyReused = errors.New("the idempotency key was used for another order")
	// ErrNotFound: the customer has no such order.
	ErrNotFound = errors.New("no such order")
	// ErrPaymentWindowOver: the payment came after the window, whether or not the
	// order's expiry was seen to.
	ErrPaymentWindowOver = errors.New("the payment window is over")
	// ErrCancelled: a cancelled order cannot be paid.
	ErrCancelled = errors.New("the order is cancelled")
	// ErrAlreadyPaid: a paid order cannot be cancelled, nor paid once more.
	ErrAlreadyPaid = errors.New("the order is paid")
	// ErrExpired: an expired order cannot be cancelled.
	ErrExpired = errors.New("the order has expired")
	// ErrPrecondition: the SKU is not as the caller's Precondition has it.
	ErrPrecondition = errors.New("the SKU is not as the precondition has it")
)

// The troubles.
var (
	// ErrBusy: the queue is full. Nothing was applied.
	ErrBusy = errors.New("too many orders are waiting")
	// ErrUnavailable: the order could not be served in time, or a server that it
	// needs does not answer. Nothing was applied.
	ErrUnavailable = errors.New("not served in time")
	// ErrTokensBehind: the lock's server hands out tokens that are older than
	// those admitted. Nothing was applied, nor will be.
	ErrTokensBehind = errors.New("the lock server's tokens are behind those that were admitted")
	// ErrAdopted: the database was given to another guard. Nothing was applied,
	// nor will be by this replica.
	ErrAdopted = errors.New("the database was given to another guard")
	// ErrUnknown: the order may have been applied. The same key tells.
	ErrUnknown = errors.New("the outcome is unknown")
	// ErrInFlight: another request with the same key is not yet answered.
	ErrInFlight = errors.New("a request with this key is in flight")
)
