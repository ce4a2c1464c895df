package order

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"

	"flashsale/internal/stock"
)

// This file is how units come back: cancelled and expired orders.

// returning are orders of one SKU that are to end without payment.
type returning struct {
	sku string
	// to is Cancelled or Expired.
	to  Status
	ids []ID
}

// returnUnits ends those of the orders that are still reserved, and whose window
// is over if they are to expire, and gives their units back, in one transaction.
// It returns how many it ended. It may be repeated: what it has done it does not
// do again. stock.ErrOutcomeUnknown: it was done, or will be, or not.
func returnUnits(ctx context.Context, db *stock.DB, r returning) (ended int64, err error) {
	// One order everywhere, of the primary key: two that return the same orders
	// could deadlock.
	slices.SortFunc(r.ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	err = retried(func() error {
		query, args := r.statements(newID())
		return db.OnConn(ctx, func(conn *sql.Conn) error {
			counts, err := execCommitted(ctx, conn, query, args)
			if err != nil {
				return fmt.Errorf("return units of %s: %w", r.sku, err)
			}
			ended = counts[2]
			return nil
		})
	})
	return ended, err
}

// statements is the text of the transaction: one packet, so that no round trip of
// this process stands between the first row lock and COMMIT. The stock row comes
// first, as in every transaction; what returns is summed up by the name that this
// write, and no other, leaves in the orders which it ends.
func (r *returning) statements(by ID) (query string, args []any) {
	list := make([]any, len(r.ids))
	for i := range r.ids {
		list[i] = r.ids[i][:]
	}
	in := "(?" + strings.Repeat(", ?", len(list)-1) + ")"
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
	args = append(args, sku, string(r.to), by[:])
	args = append(append(args, list...), sku)
	args = append(append(args, list...), by[:], sku)
	return query, args
}

// execCommitted sends a transaction in one packet and returns how many rows each
// of its statements changed. A retryable error, and those of a key that is taken, of
// stock.Stop and of a server that takes no writes, say that nothing was committed;
// every other is stock.ErrOutcomeUnknown, unless nothing was sent.
func execCommitted(ctx context.Context, conn *sql.Conn, query string, args []any) (counts []int64, err error) {
	counts, err = execAll(ctx, conn, query, args)
	switch {
	case err == nil:
	case stock.IsDuplicate(err), stock.IsStopped(err), stock.IsRetryable(err), stock.IsReadOnly(err), errors.Is(err, driver.ErrBadConn):
		return nil, err // the server, or the driver before it sent anything, says so
	default:
		return nil, fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
	}
	if want := strings.Count(query, "; ") + 1; len(counts) != want {
		return nil, fmt.Errorf("%w: %d statements were answered, of %d", stock.ErrOutcomeUnknown, len(counts), want)
	}
	return counts, nil
}
