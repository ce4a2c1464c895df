package order

import (
	"context"
	"fmt"
	"slices"
	"time"

	"flashsale/internal/stock"
)

// This file is how the Expirer finds due orders: page by page, by a cursor, so that
// those of a SKU which is still being swept are not read again for each page.

const (
	// dueOrders is a plain read, which locks nothing, of an index alone.
	dueOrders = "SELECT id, sku, expires_at FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at <= NOW(6) " +
		"AND (expires_at > ? OR expires_at = ? AND id > ?) ORDER BY expires_at, id LIMIT ?"

	// readAgain is when the due orders are read from the oldest again, at the latest:
	// one may have come to stand before the last that was read, as by a step of the
	// database's clock. passedOverAgain is when it is done for those that were passed
	// over, at the earliest.
	readAgain       = 10 * time.Second
	passedOverAgain = time.Second
	// backlogMost bounds the orders that were read and wait to be ended, and
	// backlogOfSKU those of one SKU: it ends some 20,000 a second.
	backlogMost  = 100_000
	backlogOfSKU = 20_000
)

// dueOrder is an order that is due. The zero value is before all of them.
type dueOrder struct {
	id  ID
	sku string
	at  time.Time
}

// findDue reads up to limit due orders behind one, the oldest first.
func findDue(ctx context.Context, db *stock.DB, after dueOrder, limit int) (due []dueOrder, err error) {
	if after.at.IsZero() {
		after.at = time.Unix(0, 0) // which a server takes for a date
	}
	rows, err := db.SQL.QueryContext(ctx, dueOrders, after.at, after.at, after.id[:], limit)
	if err != nil {
		return nil, fmt.Errorf("find due orders: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var d dueOrder
		var id []byte
		if err := rows.Scan(&id, &d.sku, &d.at); err != nil {
			return nil, fmt.Errorf("find due orders: %w", err)
		}
		d.id = ID(id)
		due = append(due, d)
	}
	return due, rows.Err()
}

// backlog are the due orders that were read and are not yet being ended. Reading
// goes on behind the last one, and from time to time begins again.
type backlog struct {
	began time.Time
	after dueOrder
	// passedOver: some were not taken, as there are too many of their SKU.
	passedOver bool

	ids  map[string][]ID
	skus []string // of ids
	size int      // of all ids
}

func newBacklog() *backlog { return &backlog{began: time.Now(), ids: map[string][]ID{}} }

// old reports whether to read from the oldest again.
func (b *backlog) old(failed map[string]*holdOff) bool {
	age := time.Since(b.began)
	if age >= readAgain || age < passedOverAgain || b.size > 0 {
		return age >= readAgain
	}
	again := b.passedOver
	for _, f := range failed {
		again = again || f.until.After(b.began) && time.Now().After(f.until)
	}
	return again
}

// add takes a due order, but for one of a SKU that is held off.
func (b *backlog) add(d dueOrder, failed map[string]*holdOff) {
	b.after = d
	if f := failed[d.sku]; f != nil && time.Now().Before(f.until) {
		return
	}
	ids, there := b.ids[d.sku]
	if len(ids) >= backlogOfSKU {
		b.passedOver = true
		return
	}
	if !there {
		b.skus = append(b.skus, d.sku)
	}
	b.ids[d.sku] = append(ids, d.id)
	b.size++
}

// next takes orders of one SKU that is not being swept; none where there is no such
// SKU.
func (b *backlog) next(working map[string]bool) (sku string, ids []ID) {
	for i, sku := range b.skus {
		if working[sku] {
			continue
		}
		// The order of SKUs matters little: those before this one are being swept.
		b.skus[i], b.skus = b.skus[0], b.skus[1:]
		all := b.ids[sku]
		ids := all[:min(len(all), expiryPage)]
		b.size -= len(ids)
		if rest := all[len(ids):]; len(rest) > 0 {
			b.ids[sku], b.skus = rest, append(b.skus, sku)
		} else {
			delete(b.ids, sku)
		}
		return sku, ids
	}
	return "", nil
}

// drop forgets a SKU's orders. They are read again.
func (b *backlog) drop(sku string) {
	b.size -= len(b.ids[sku])
	delete(b.ids, sku)
	b.skus = slices.DeleteFunc(b.skus, func(s string) bool { return s == sku })
}
