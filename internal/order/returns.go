package order

import (
	"bytes"
	"context"
	"fmt"
	"slices"
)

// returnUnits ends those of a SKU's orders that are still reserved, and returns their
// units, in one transaction. They become Cancelled, or Expired if they are due. It returns
// how many it ended. It may be repeated: each order ends once. After
// stock.ErrOutcomeUnknown the transaction may have been applied, or may still be.
func returnUnits(ctx context.Context, db database, sku string, to Status, ids []ID) (ended int64, err error) {
	// All transactions lock orders by primary key: two with the same orders could
	// otherwise deadlock.
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	by := newID()
	err = retryRolledBack(func() error {
		ended, err = db.returnUnits(ctx, sku, to, ids, by)
		return err
	})
	return ended, err
}

func (db inMySQL) returnUnits(ctx context.Context, sku string, to Status, ids []ID, by ID) (ended int64, err error) {
	query, args := returnStatements(sku, to, ids, by)
	counts, err := db.execCommitted(ctx, query, args)
	if err != nil {
		return 0, fmt.Errorf("return units of %s: %w", sku, err)
	}
	return counts[2], nil
}

// returnStatements is the text of the transaction. It is one packet, so that this process
// makes no round trip between the first row lock and COMMIT. It locks the stock row
// first, as every transaction does. It stores by in each order that it ends, and adds up
// the units of the orders with that mark.
func returnStatements(sku string, to Status, ids []ID, by ID) (query string, args []any) {
	list, in := idArgs(ids), placeholders(len(ids))
	due := ""
	if to == Expired {
		due = " AND expires_at <= NOW(6)"
	}
	name := []byte(sku)
	query = "BEGIN; " +
		"UPDATE stock SET seq = seq + 1, updated_at = NOW(6) WHERE sku = ?; " +
		"UPDATE orders FORCE INDEX (PRIMARY) SET status = ?, closed_at = NOW(6), returned_by = ? " +
		"WHERE id IN " + in + " AND sku = ? AND status = 'reserved'" + due + "; " +
		"UPDATE stock SET available = available + (SELECT COALESCE(SUM(o.quantity), 0) FROM orders o FORCE INDEX (PRIMARY) " +
		"WHERE o.id IN " + in + " AND o.returned_by = ?) WHERE sku = ?; " +
		"COMMIT"
	return query, slices.Concat([]any{name, string(to), by[:]}, list, []any{name}, list, []any{by[:], name})
}
