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
	// settleWait is the first wait before the database is asked again. It doubles up
	// to settleMaxWait, so that a recovered server is noticed within a fraction of a
	// request's time.
	settleWait    = 20 * time.Millisecond
	settleMaxWait = 500 * time.Millisecond
)

// settle finds out which orders of a transaction with an unknown outcome exist, and
// makes sure that the others never will (see stock.Settle). It retries until the
// database has answered, or ctx ends. If the settling's own COMMIT is lost, asking
// again is still right.
//
// It looks for IDs. A key may belong to the order of another request, and seq is also
// advanced by other writes.
func settle(ctx context.Context, db *stock.DB, sku string, ids []ID) (map[ID]bool, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = settleWait, settleMaxWait
	found, err := backoff.Retry(ctx, func() (found map[ID]bool, err error) {
		err = db.Clearing(ctx, func() error {
			return db.OnConn(ctx, func(conn *sql.Conn) (err error) {
				found, err = settleOn(ctx, conn, sku, ids)
				return err
			})
		})
		return found, err
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0))
	if err != nil {
		return nil, fmt.Errorf("resolve orders of %s: %w", sku, err)
	}
	return found, nil
}

// settleOn sends one packet, so that this process takes no round trip between the row
// lock and COMMIT.
func settleOn(ctx context.Context, conn *sql.Conn, sku string, ids []ID) (map[ID]bool, error) {
	query, args := idsQuery(ids)
	rows, err := conn.QueryContext(ctx, stock.Settle+"; "+query+"; COMMIT", append([]any{[]byte(sku)}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("look up orders: %w", err)
	}
	defer rows.Close()
	found := map[ID]bool{}
	for rows.Next() {
		var id []byte
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		found[ID(id)] = true
	}
	rows.NextResultSet() // to read the error of COMMIT, if any
	return found, rows.Err()
}
