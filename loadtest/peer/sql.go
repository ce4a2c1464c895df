package peer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/order"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

// database is what the rivals on MySQL share: the service's tables.
type database struct {
	unoffered
	db   *stock.DB
	rows cache
}

func (d *database) PutSKU(ctx context.Context, want stock.Stock, _ order.Precondition) (got stock.Stock, created bool, err error) {
	if created, err = d.db.Create(ctx, want); err != nil || !created {
		return want, created, err
	}
	got, err = d.db.Get(ctx, want.SKU)
	return got, created, err
}

func (d *database) ready(ctx context.Context) map[string]error {
	return map[string]error{"mysql": d.db.Ping(ctx)}
}

func (d *database) close(context.Context) error { return nil }

const (
	// attempts bounds how often a transaction that the server gave up is run
	// again, and backoff is the longest wait before: both are the service's.
	attempts = 5
	backoff  = 10 * time.Millisecond
)

// errRefused says that too few units were there.
var errRefused = errors.New("too few units")

// place runs try, which writes the order of that id in a transaction, until it is
// no more given up by the server.
func (d *database) place(ctx context.Context, r *order.Request, try func(ctx context.Context, id order.ID) error) (order.Placed, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	row, err := d.rows.get(ctx, r.SKU, d.db.Get)
	if err != nil {
		return order.Placed{}, classify(err)
	}
	for range attempts {
		var id uuid.UUID
		if id, err = uuid.NewV7(); err != nil {
			break
		}
		now := time.Now().UTC()
		if err = try(ctx, id); err == nil {
			return promise(r, id, row.PriceCents, row.Currency, now), nil
		}
		if !stock.IsRetryable(err) {
			break
		}
		if sleep.For(ctx, rand.N(backoff)) != nil {
			return order.Placed{}, classify(err)
		}
	}
	if errors.Is(err, errRefused) {
		err = d.refusal(ctx, r)
	}
	return order.Placed{}, classify(err)
}

// refusal tells sold out from too few.
func (d *database) refusal(ctx context.Context, r *order.Request) error {
	row, err := d.db.Get(ctx, r.SKU)
	switch {
	case err != nil:
		return err
	case row.Available > 0:
		return order.ErrInsufficient
	}
	return order.ErrSoldOut
}

// classify makes what ended an order one of package order's errors.
func classify(err error) error {
	for _, known := range []error{stock.ErrUnknownSKU, order.ErrSoldOut, order.ErrInsufficient, order.ErrUnknown, order.ErrUnavailable} {
		if errors.Is(err, known) {
			return err
		}
	}
	switch {
	case stock.IsDuplicate(err):
		return fmt.Errorf("%w: %w", order.ErrInFlight, err)
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return fmt.Errorf("%w: %w", order.ErrUnknown, err)
	}
	return fmt.Errorf("%w: %w", order.ErrUnavailable, err)
}

// insertOrder writes an order with what stands in its stock row, if the statement
// before it changed so many rows.
const insertOrder = `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
	per_customer_limit, status, fence, seq, created_at, expires_at)
	SELECT ?, s.sku, ?, ?, ?, ?, s.price_cents, s.currency, s.per_customer_limit, 'reserved', s.fence, s.seq,
		NOW(6), NOW(6) + INTERVAL ? SECOND FROM stock s WHERE s.sku = ? AND ROW_COUNT() = ?`

func insertArgs(id order.ID, r *order.Request, changed int) []any {
	fingerprint := r.Fingerprint()
	return []any{id[:], []byte(r.Customer), []byte(r.Key), fingerprint[:], r.Quantity, int(paymentWindow.Seconds()), []byte(r.SKU), changed}
}

// commitWith is the packet that takes units by one statement, which changes so
// many rows or none, inserts the order, commits, and asks whether it stands. It
// begins the transaction unless an earlier packet has.
func commitWith(ctx context.Context, conn *sql.Conn, begin, take string, takeArgs []any, changed int, id order.ID, r *order.Request) error {
	args := append(append(takeArgs[:len(takeArgs):len(takeArgs)], insertArgs(id, r, changed)...), id[:])
	var stands bool
	err := conn.QueryRowContext(ctx, begin+take+"; "+insertOrder+"; COMMIT; SELECT EXISTS (SELECT 1 FROM orders WHERE id = ?)", args...).Scan(&stands)
	switch {
	case err == nil && !stands:
		return errRefused
	case err == nil, stock.IsRetryable(err), stock.IsDuplicate(err):
		return err // the server says so, and OnConn rolls back
	}
	return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
}

const begin = "BEGIN; "

// oneTrip is the whole transaction in one packet.
func (d *database) oneTrip(ctx context.Context, id order.ID, r *order.Request, take string, args ...any) error {
	return d.db.OnConn(ctx, func(conn *sql.Conn) error {
		return commitWith(ctx, conn, begin, take, args, 1, id, r)
	})
}

// readThenWrite is a transaction of single statements, as a textbook has it. Only
// a lock around it makes it right.
func (d *database) readThenWrite(ctx context.Context, conn *sql.Conn, id order.ID, r *order.Request) error {
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	switch _, err := textbook.Take(ctx, conn, r.SKU, r.Quantity); {
	case errors.Is(err, stock.ErrShort):
		if _, err := conn.ExecContext(ctx, "ROLLBACK"); err != nil {
			return err
		}
		return errRefused
	case err != nil:
		return err
	}
	if _, err := conn.ExecContext(ctx, insertOrder, insertArgs(id, r, 1)...); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
	}
	return nil
}
