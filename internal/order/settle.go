package order

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

const (
	// settleWait is the first wait before the database is asked again. It doubles up to
	// settleMaxWait, a fraction of a request's time.
	settleWait    = 20 * time.Millisecond
	settleMaxWait = 500 * time.Millisecond
)

// settle finds out which orders of a transaction with an unknown outcome exist, and
// makes sure that the others never will (see stock.Settle). It retries until the
// database has answered, or ctx ends. It looks orders up by ID, because a key may belong
// to the order of another request, and other writes advance seq too. What it returns may be
// the orders of an earlier copy of the same requests, which differ in time and seq.
func settle(ctx context.Context, db database, sku string, ids []ID) ([]Order, error) {
	for wait := settleWait; ; wait = min(2*wait, settleMaxWait) {
		found, err := db.settle(ctx, sku, ids)
		if err == nil {
			return found, nil
		}
		if sleep.For(ctx, wait) != nil {
			return nil, fmt.Errorf("resolve orders of %s: %w", sku, err)
		}
	}
}

// settle sends one packet, so that this process makes no round trip between the row lock
// and COMMIT. stock.Query returns the error of COMMIT.
func (db inMySQL) settle(ctx context.Context, sku string, ids []ID) (found []Order, err error) {
	query := stock.Settle + "; SELECT " + readColumns + " FROM orders o WHERE o.id IN " + placeholders(len(ids)) + "; COMMIT"
	args := append([]any{[]byte(sku)}, idArgs(ids)...)
	err = db.EndingBlockers(ctx, func() error {
		return db.OnConn(ctx, func(conn *sql.Conn) (err error) {
			found, err = stock.Query(ctx, conn, (*Order).columns, query, args...)
			return err
		})
	})
	return found, err
}
