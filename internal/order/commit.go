package order

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/stock"
)

// batchStatements are the texts of one transaction that takes a batch's units
// and writes its orders: one packet, so that no round trip of this process
// stands between the first row lock and COMMIT. A process stopped in between
// would hold the row against its successor, fence or no fence.
func batchStatements(t stock.Tenure, row stock.Row, units int64, orders []*Order) (query string, args []any) {
	batch := stock.Batch(orders[0].ID) // made anew for each attempt
	take, takeArgs := t.Take(row, units, batch)
	write, writeArgs := insertAdmitted(t, batch, orders)
	return "BEGIN; " + take + "; " + write + "; COMMIT", append(takeArgs, writeArgs...)
}

// The places of the statements' counts in the packet's answer.
const (
	countTake   = 1
	countInsert = 2
	countAll    = 4
)

// commit writes a decision. stock.ErrFenced: nothing was written, the row is no
// longer what the tenure knows. A duplicate key or a retryable error: rolled
// back. stock.ErrOutcomeUnknown: to be resolved.
func (t *tenure) commit(d *decision) error {
	ctx, cancel := context.WithTimeout(t.ctx, commitTimeout)
	defer cancel()
	began := time.Now()
	defer func() { t.cfg.Metrics.Commit.Observe(time.Since(began).Seconds()) }()
	query, args := batchStatements(t.right, t.row, d.units, d.orders)
	return t.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
		counts, err := execAll(ctx, conn, query, args)
		switch {
		case err == nil:
		case stock.IsDuplicate(err), stock.IsRetryable(err), errors.Is(err, driver.ErrBadConn):
			return err // the server, or the driver before it sent anything, says so
		default:
			return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
		}
		if len(counts) == countAll && counts[countTake] == 1 && counts[countInsert] == int64(len(d.orders)) {
			return nil
		}
		if len(counts) == countAll && counts[countTake] == 0 && counts[countInsert] == 0 {
			return stock.ErrFenced
		}
		return fmt.Errorf("%w: a batch of %d orders changed %v rows", stock.ErrOutcomeUnknown, len(d.orders), counts)
	})
}

// execAll sends several statements in one packet and returns how many rows each
// of them changed, which database/sql itself does not tell.
func execAll(ctx context.Context, conn *sql.Conn, query string, args []any) (counts []int64, err error) {
	named := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
	}
	err = conn.Raw(func(raw any) error {
		result, err := raw.(driver.ExecerContext).ExecContext(ctx, query, named)
		if err != nil {
			return err
		}
		counts = result.(mysql.Result).AllRowsAffected()
		return nil
	})
	return counts, err
}
