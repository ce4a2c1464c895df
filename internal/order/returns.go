package order

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"flashsale/internal/stock"
)

// returning are orders of one SKU that are to end without payment.
type returning struct {
	sku string
	to  Status // Cancelled or Expired
	ids []ID
}

// returnUnits ends those of the orders that are still reserved, and due if they are to
// expire, and returns their units, in one transaction. It returns how many it ended. It
// may be repeated: each order ends once. After stock.ErrOutcomeUnknown the transaction
// may have been applied, or may still be.
func returnUnits(ctx context.Context, db *stock.DB, r returning) (ended int64, err error) {
	// All transactions lock orders by primary key: two with the same orders could
	// otherwise deadlock.
	slices.SortFunc(r.ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	query, args := r.statements(newID())
	err = retried(func() error {
		counts, err := execCommitted(ctx, db, query, args)
		if err != nil {
			return fmt.Errorf("return units of %s: %w", r.sku, err)
		}
		ended = counts[2]
		return nil
	})
	return ended, err
}

// statements is the text of the transaction. It is one packet, so that this process
// takes no round trip between the first row lock and COMMIT. It locks the stock row
// first, as every transaction does. It marks the orders that it ends with by, and adds
// up the units of the marked ones.
func (r *returning) statements(by ID) (query string, args []any) {
	list, in := idArgs(r.ids), placeholders(len(r.ids))
	due := ""
	if r.to == Expired {
		due = " AND expires_at <= NOW(6)"
	}
	sku := []byte(r.sku)
	query = "BEGIN; " +
		"UPDATE stock SET seq = seq + 1, updated_at = NOW(6) WHERE sku = ?; " +
		"UPDATE orders FORCE INDEX (PRIMARY) SET status = ?, closed_at = NOW(6), returned_by = ? " +
		"WHERE id IN " + in + " AND sku = ? AND status = 'reserved'" + due + "; " +
		"UPDATE stock SET available = available + (SELECT COALESCE(SUM(o.quantity), 0) FROM orders o FORCE INDEX (PRIMARY) " +
		"WHERE o.id IN " + in + " AND o.returned_by = ?) WHERE sku = ?; " +
		"COMMIT"
	return query, slices.Concat([]any{sku, string(r.to), by[:]}, list, []any{sku}, list, []any{by[:], sku})
}
