package order

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"flashsale/internal/stock"
)

const (
	// settleWait is the first wait before the database is asked again; it
	// doubles up to settleMaxWait, so that a server which comes back is met
	// within a fraction of a request's time.
	settleWait    = 20 * time.Millisecond
	settleMaxWait = 500 * time.Millisecond
)

// settle finds out which orders of a transaction with an unknown outcome stand,
// and makes sure that the others never will: see stock.Settle. It asks until the
// database has answered, or ctx ends.
//
// A key that stands under another ID says nothing about this transaction: it is
// another request's order. Nor does seq alone, which others move too.
func settle(ctx context.Context, db *stock.DB, sku string, ids []ID) (found map[ID]bool, err error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = settleWait, settleMaxWait
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		// The transaction of the settling may itself be lost after its COMMIT
		// was sent; asking again is then right too.
		return struct{}{}, db.InTx(ctx, func(conn *sql.Conn) (err error) {
			if err := stock.Settle(ctx, conn, sku); err != nil {
				return err
			}
			found, err = findByIDs(ctx, conn, ids)
			return err
		})
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return nil, fmt.Errorf("resolve orders of %s: %w", sku, err)
	}
	return found, nil
}
