package peer

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// textbook reads the stock and writes what it computed.
var textbook = stock.Writer{Way: strategy.ReadThenWrite}

// oneTrip is conditional-1trip.
type oneTrip struct{ database }

func openOneTrip(_ context.Context, s Servers) (rival, error) {
	return &oneTrip{database{db: s.DB}}, nil
}

const takeConditionally = "UPDATE stock SET available = available - ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ? AND available >= ?"

func (o *oneTrip) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	return o.place(ctx, &r, func(ctx context.Context, id order.ID) error {
		return o.oneTrip(ctx, id, &r, takeConditionally, r.Quantity, []byte(r.SKU), r.Quantity)
	})
}

// getLock holds MySQL's GET_LOCK around a read and a write. The lock belongs to a
// connection, so the order keeps it from the lock to the release.
type getLock struct{ database }

func openGetLock(_ context.Context, s Servers) (rival, error) {
	return &getLock{database{db: s.DB}}, nil
}

// getLockWait is in seconds, below the request's own time-out.
const getLockWait = 4

func (g *getLock) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	// Names of locks are the server's, not the database's.
	name := g.db.Name + "." + r.SKU
	return g.place(ctx, &r, func(ctx context.Context, id order.ID) error {
		return g.db.OnConn(ctx, func(conn *sql.Conn) error {
			var got sql.NullInt64
			if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", name, getLockWait).Scan(&got); err != nil {
				return err
			}
			if got.Int64 != 1 {
				return fmt.Errorf("%w: the lock was not granted in %d s", order.ErrUnavailable, getLockWait)
			}
			err := g.readThenWrite(ctx, conn, id, &r)
			free, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err != nil && !errors.Is(err, errRefused) {
				// The next holder must not read what is not rolled back.
				if _, rollback := conn.ExecContext(free, "ROLLBACK"); rollback != nil {
					err = errors.Join(err, rollback)
				}
			}
			if _, unlock := conn.ExecContext(free, "DO RELEASE_LOCK(?)", name); unlock != nil {
				// The order's outcome stands; the lock ends with its connection.
				_ = conn.Raw(func(any) error { return driver.ErrBadConn })
			}
			return err
		})
	})
}
