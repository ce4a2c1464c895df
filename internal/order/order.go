// Package order sells units of a SKU. It holds the domain types, the desks that
// sell one SKU each, and the simpler sellers that the registry of strategies lists.
// It guarantees one order per idempotency key, and reports an outcome that it
// cannot determine in time as ErrUnknown. It leaves HTTP to httpapi, the stock row
// to stock, and mutual exclusion to lock.
package order

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
)

// ID identifies an order. It is made first, so that it can be looked up after an unknown commit.
type ID = uuid.UUID

func newID() ID { return uuid.Must(uuid.NewV7()) }

// Status is the state of an order.
type Status string

// The statuses. The units of cancelled and expired orders have returned to the sale.
const (
	Reserved  Status = "reserved"
	Paid      Status = "paid"
	Cancelled Status = "cancelled"
	Expired   Status = "expired"
)

// Order is a customer's units of one SKU. Times are in UTC by the database's clock.
type Order struct {
	ID               ID
	SKU              string
	Customer         string
	Key              string // the customer's idempotency key
	Fingerprint      Fingerprint
	Quantity         int32
	PriceCents       int64 // of one unit, at the time of the order
	Currency         string
	Limit            *int32 // the per-customer limit at the time of the order
	Status           Status
	Fence            uint64 // of the write to stock that admitted the order
	Seq              uint64 // of the same write
	CreatedAt        time.Time
	ExpiresAt        time.Time
	ClosedAt         *time.Time // when it was paid, cancelled or expired; nil while reserved
	PaymentReference string     // identifies the payment; empty if none was given
}

// TotalCents is the price of the whole order.
func (o *Order) TotalCents() int64 { return int64(o.Quantity) * o.PriceCents }

// resetToCreated restores the state in which the order was created. An order that
// costs nothing is created as paid, because no payment will come for it.
func (o *Order) resetToCreated() {
	o.Status, o.ClosedAt, o.PaymentReference = Reserved, nil, ""
	if o.TotalCents() == 0 {
		o.Status, o.ClosedAt = Paid, new(o.CreatedAt)
	}
}

// Request is a customer's request for an order.
type Request struct {
	SKU      string
	Customer string
	Key      string
	Quantity int32
	// PriceCents and Currency are the unit price that the customer was shown, if
	// set. The request is refused with ErrPriceChanged if the SKU's price differs.
	PriceCents *int64
	Currency   string

	id ID // becomes the order's ID, also if the request is sent to a seller again
}

// Fingerprint distinguishes requests that use the same key.
type Fingerprint [sha256.Size]byte

// Scan reads a fingerprint from the database.
func (f *Fingerprint) Scan(column any) error {
	if text, ok := column.([]byte); !ok || copy(f[:], text) != len(f) {
		return fmt.Errorf("a fingerprint has %d bytes, not %v", len(f), column)
	}
	return nil
}

// Fingerprint hashes the meaning of the request, not the bytes of its body.
func (r *Request) Fingerprint() Fingerprint {
	var text [4 + 64 + 1 + 8 + 3]byte
	buf := append(binary.BigEndian.AppendUint32(text[:0], uint32(r.Quantity)), r.SKU...)
	if r.PriceCents != nil || r.Currency != "" {
		buf = append(buf, 0) // no name of a SKU contains it
		if r.PriceCents != nil {
			buf = binary.BigEndian.AppendUint64(buf, uint64(*r.PriceCents))
		}
		buf = append(buf, r.Currency...) // 3 bytes, where a price has 8
	}
	return sha256.Sum256(buf)
}

// Placed is the answer to a Request.
type Placed struct {
	Order    Order
	Replayed bool // set if an earlier request with the same key made the order
}

// checkSale refuses a request for a SKU that is not listed, outside its sale, or with
// another price.
func checkSale(row *stock.Row, now time.Time, r *Request) error {
	if !row.Listed(now) {
		return stock.ErrUnknownSKU
	}
	switch row.Open(now) {
	case -1:
		return ErrNotOpen
	case 1:
		return ErrOver
	}
	if r.PriceCents != nil && *r.PriceCents != row.PriceCents || r.Currency != "" && r.Currency != row.Currency {
		return ErrPriceChanged
	}
	return nil
}

// tooFew is the refusal of a quantity that is larger than the available units.
func tooFew(available int64) error {
	if available <= 0 {
		return ErrSoldOut
	}
	return ErrInsufficient
}

// makeOrder makes the order for r from the stock row. now is by the database's clock.
func (cfg *Config) makeOrder(r *Request, id ID, row *stock.Row, now time.Time, fence lock.Token) Order {
	now = now.UTC().Truncate(time.Microsecond) // the precision of DATETIME(6)
	o := Order{
		ID: id, SKU: r.SKU, Customer: r.Customer, Key: r.Key, Fingerprint: r.Fingerprint(), Quantity: r.Quantity,
		PriceCents: row.PriceCents, Currency: row.Currency, Limit: row.PerCustomerLimit,
		Fence: uint64(fence), Seq: row.Seq, CreatedAt: now, ExpiresAt: now.Add(cfg.PaymentWindow),
	}
	o.resetToCreated()
	return o
}

// replayOf answers r with the existing order of its key, in the state in which the
// order was created: a replay repeats the first answer.
func replayOf(o Order, r *Request) (Placed, error) {
	if o.Fingerprint != r.Fingerprint() {
		return Placed{}, ErrKeyReused
	}
	o.resetToCreated()
	return Placed{Order: o, Replayed: o.ID != r.id}, nil
}
