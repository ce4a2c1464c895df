package peer

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/order"
)

const takeConditionally = "UPDATE stock SET available = available - ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ? AND available >= ?"

func openOneTrip(_ context.Context, s Servers) (rival, error) {
	d := newDatabase(s)
	d.attempt = func(ctx context.Context, id order.ID, r *order.Request) error {
		return d.oneTrip(ctx, id, r, takeConditionally, r.Quantity, []byte(r.SKU), r.Quantity)
	}
	return d, nil
}

// getLockWait is in seconds, below the request time-out.
const getLockWait = 4

// openGetLock opens get-lock, which holds MySQL's GET_LOCK around a read and a write.
// The lock belongs to a connection, so the order uses one connection throughout.
func openGetLock(_ context.Context, s Servers) (rival, error) {
	d := newDatabase(s)
	d.attempt = func(ctx context.Context, id order.ID, r *order.Request) error {
		name := s.DB.Name + "." + r.SKU // lock names are global to the server
		return s.DB.OnConn(ctx, func(conn *sql.Conn) error {
			var got sql.NullInt64
			if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", name, getLockWait).Scan(&got); err != nil {
				return err
			}
			if got.Int64 != 1 {
				return fmt.Errorf("%w: the lock was not granted in %d s", order.ErrUnavailable, getLockWait)
			}
			err := readThenWrite(ctx, conn, id, r)
			ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err != nil && !errors.Is(err, errRefused) {
				// Before the next holder reads.
				_, rollback := conn.ExecContext(ending, "ROLLBACK")
				err = errors.Join(err, rollback)
			}
			if _, unlock := conn.ExecContext(ending, "DO RELEASE_LOCK(?)", name); unlock != nil {
				// The order's outcome is unchanged. Closing the connection ends the lock.
				_ = conn.Raw(func(any) error { return driver.ErrBadConn })
			}
			return err
		})
	}
	return d, nil
}
