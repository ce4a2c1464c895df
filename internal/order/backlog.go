package order

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"flashsale/internal/stock"
)

const (
	// dueOrders reads only an index, and locks nothing. The cursor saves reading the orders
	// again that are still being ended.
	dueOrders = "SELECT id, sku, expires_at FROM orders FORCE INDEX (expiring) WHERE status = 'reserved' AND expires_at <= NOW(6) " +
		"AND (expires_at > ? OR expires_at = ? AND id > ?) ORDER BY expires_at, id LIMIT ?"

	// readAgain is when the due orders are read from the oldest again, because one may
	// have appeared before the cursor, for example after a step of the database's
	// clock. passedOverAgain is the earliest time for that if some were passed over.
	readAgain       = 10 * time.Second
	passedOverAgain = time.Second
	// The bounds of a backlog. The Expirer ends about 20,000 orders a second.
	backlogMost  = 100_000
	backlogOfSKU = 20_000
)

// dueOrder is an order whose window is over. The zero value sorts before all of them.
type dueOrder struct {
	id  ID
	sku string
	at  time.Time
}

// findDue reads up to limit due orders after one, the oldest first.
func findDue(ctx context.Context, db *stock.DB, after dueOrder, limit int) (due []dueOrder, err error) {
	if after.at.IsZero() {
		after.at = epoch
	}
	err = readRows(ctx, db.SQL, dueOrders, []any{after.at, after.at, after.id[:], limit}, func(rows *sql.Rows) error {
		var d dueOrder
		err := rows.Scan(&d.id, &d.sku, &d.at)
		due = append(due, d)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find due orders: %w", err)
	}
	return due, nil
}

// backlog holds the due orders that were read and that no worker has taken yet. Reading
// continues after the last one, and starts over from time to time.
type backlog struct {
	began time.Time
	after dueOrder
	// passedOver is set if orders were skipped because there are too many of their SKU.
	passedOver bool

	ids  map[string][]ID
	skus []string // of ids
	size int      // of all ids
}

func newBacklog() *backlog { return &backlog{began: time.Now(), ids: map[string][]ID{}} }

// old reports whether to read from the oldest order again.
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

// add adds a due order, unless its SKU is held off.
func (b *backlog) add(d dueOrder, failed map[string]*holdOff) {
	b.after = d
	if f := failed[d.sku]; f != nil && time.Now().Before(f.until) {
		return
	}
	ids, ok := b.ids[d.sku]
	if len(ids) >= backlogOfSKU {
		b.passedOver = true
		return
	}
	if !ok {
		b.skus = append(b.skus, d.sku)
	}
	b.ids[d.sku] = append(ids, d.id)
	b.size++
}

// next takes orders of a SKU that no worker is sweeping, if there is one.
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

// drop forgets a SKU's orders. They will be read again.
func (b *backlog) drop(sku string) {
	b.size -= len(b.ids[sku])
	delete(b.ids, sku)
	b.skus = slices.DeleteFunc(b.skus, func(s string) bool { return s == sku })
}
