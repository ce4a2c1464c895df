package mirror

import (
	"encoding/json"
	"fmt"
	"time"

	"flashsale/internal/stock"
)

// Entry is the copy of one SKU's stock row: its public columns, and its seq. In
// etcd it is JSON, under the prefix and the SKU.
type Entry struct {
	SKU              string     `json:"sku"`
	Name             string     `json:"name"`
	PriceCents       int64      `json:"price_cents"`
	Currency         string     `json:"currency"`
	Units            int64      `json:"units"`
	Available        int64      `json:"available"`
	PerCustomerLimit *int32     `json:"per_customer_limit,omitempty"`
	SaleStartsAt     *time.Time `json:"sale_starts_at,omitempty"`
	SaleEndsAt       *time.Time `json:"sale_ends_at,omitempty"`
	Seq              uint64     `json:"seq"`
	Revision         uint64     `json:"revision"`
}

// Stock is the row that the entry copies. Columns that an Entry lacks are zero.
func (e *Entry) Stock() stock.Stock {
	return stock.Stock{
		SKU: e.SKU, Name: e.Name, PriceCents: e.PriceCents, Currency: e.Currency, Units: e.Units, Available: e.Available,
		PerCustomerLimit: e.PerCustomerLimit, SaleStartsAt: e.SaleStartsAt, SaleEndsAt: e.SaleEndsAt, Seq: e.Seq, Revision: e.Revision,
	}
}

func entryOf(s *stock.Stock) Entry {
	return Entry{
		SKU: s.SKU, Name: s.Name, PriceCents: s.PriceCents, Currency: s.Currency, Units: s.Units, Available: s.Available,
		PerCustomerLimit: s.PerCustomerLimit, SaleStartsAt: s.SaleStartsAt, SaleEndsAt: s.SaleEndsAt, Seq: s.Seq, Revision: s.Revision,
	}
}

// replaces reports whether to write e, read from MySQL, over old, which was read
// from etcd before; nil means no entry. Every change of a row moves its seq.
func (e *Entry) replaces(old *Entry) bool {
	return old == nil || e.Seq > old.Seq ||
		// A restored database has reached the same seq by other changes.
		e.Seq == old.Seq && (e.Available != old.Available || e.Units != old.Units || e.Revision != old.Revision)
}

func decodeEntry(sku string, value []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(value, &e); err != nil {
		return Entry{}, fmt.Errorf("decode %s: %w", sku, err)
	}
	if e.SKU != sku {
		return Entry{}, fmt.Errorf("decode %s: the entry is for %q", sku, e.SKU)
	}
	return e, nil
}
