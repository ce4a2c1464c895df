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
	found, err = backoff.Retry(ctx, func() (map[ID]bool, error) {
		// The transaction of the settling may itself be lost after its COMMIT
		// was sent; asking again is then right too.
		return settleOnce(ctx, db, sku, ids)
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return nil, fmt.Errorf("resolve orders of %s: %w", sku, err)
	}
	return found, nil
}

// settleOnce is one packet, so that no round trip of this process stands between
// the row lock and COMMIT.
func settleOnce(ctx context.Context, db *stock.DB, sku string, ids []ID) (found map[ID]bool, err error) {
	err = db.Clearing(ctx, func() error {
		return db.OnConn(ctx, func(conn *sql.Conn) (err error) {
			found, err = settleOn(ctx, conn, sku, ids)
			return err
		})
	})
	return found, err
}

func settleOn(ctx context.Context, conn *sql.Conn, sku string, ids []ID) (found map[ID]bool, err error) {
	query, args := idsQuery(ids)
	rows, err := conn.QueryContext(ctx, stock.Settle+"; "+query+"; COMMIT", append([]any{[]byte(sku)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("look up orders: %w", err)
	}
	defer rows.Close()
	found = map[ID]bool{}
	for rows.Next() {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		found[ID(id)] = true
	}
	rows.NextResultSet() // there is none, but for the error of COMMIT
	return found, rows.Err()
}
