package peer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/order"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// database is a rival on MySQL, which writes the service's own tables.
type database struct {
	unoffered
	db   *stock.DB
	rows cache
	// attempt writes the order in one transaction, or returns errRefused.
	attempt func(ctx context.Context, id order.ID, r *order.Request) error
	// These may be nil: created is called after a SKU was created, and finish before
	// the rival closes. etcd is the client of a rival that locks in etcd.
	created func(ctx context.Context, row stock.Stock) error
	finish  func(ctx context.Context) error
	etcd    *clientv3.Client
}

func newDatabase(s Servers) *database { return &database{db: s.DB} }

// cache holds the stock rows for their prices, which do not change during a bench.
type cache struct{ sync.Map }

func (c *cache) get(ctx context.Context, sku string, load func(context.Context, string) (stock.Stock, error)) (stock.Stock, error) {
	if row, ok := c.Load(sku); ok {
		return row.(stock.Stock), nil
	}
	row, err := load(ctx, sku)
	if err == nil {
		c.Store(sku, row)
	}
	return row, err
}

func (d *database) PutSKU(ctx context.Context, want stock.Stock, _ order.Precondition) (got stock.Stock, created bool, err error) {
	if created, err = d.db.Create(ctx, want); err != nil || !created {
		return want, created, err
	}
	if got, err = d.db.Get(ctx, want.SKU); err == nil && d.created != nil {
		err = d.created(ctx, got)
	}
	return got, created, err
}

func (d *database) ready(ctx context.Context) map[string]error {
	servers := map[string]error{"mysql": d.db.Ping(ctx)}
	if d.etcd != nil {
		_, servers["etcd"] = d.etcd.Get(ctx, "flashsale/")
	}
	return servers
}

func (d *database) close(ctx context.Context) (err error) {
	if d.finish != nil {
		err = d.finish(ctx)
	}
	if d.etcd != nil {
		err = errors.Join(err, d.etcd.Close())
	}
	return err
}

const (
	// attempts bounds the runs of a transaction that the server aborts, and backoff
	// is the longest wait between two. Both are the service's.
	attempts = 5
	backoff  = 10 * time.Millisecond
)

var errRefused = errors.New("too few units")

// Place calls attempt until the server does not abort the transaction.
func (d *database) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	row, err := d.rows.get(ctx, r.SKU, d.db.Get)
	if err != nil {
		return order.Placed{}, classify(err)
	}
	for range attempts {
		id := uuid.Must(uuid.NewV7())
		now := time.Now().UTC()
		if err = d.attempt(ctx, id, &r); err == nil {
			return promise(&r, id, row.PriceCents, row.Currency, now), nil
		}
		if !stock.IsRetryable(err) || sleep.For(ctx, rand.N(backoff)) != nil {
			break
		}
	}
	if errors.Is(err, errRefused) {
		var now stock.Stock
		if now, err = d.db.Get(ctx, r.SKU); err == nil {
			err = refusal(now.Available)
		}
	}
	return order.Placed{}, classify(err)
}

func refusal(left int64) error {
	if left > 0 {
		return order.ErrInsufficient
	}
	return order.ErrSoldOut
}

// classify maps an error to one of package order's.
func classify(err error) error {
	for _, target := range []error{stock.ErrUnknownSKU, order.ErrSoldOut, order.ErrInsufficient, order.ErrUnknown, order.ErrUnavailable} {
		if errors.Is(err, target) {
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

// insertOrder inserts an order if the preceding statement changed that many rows.
const insertOrder = `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
	per_customer_limit, status, fence, seq, created_at, expires_at)
	SELECT ?, s.sku, ?, ?, ?, ?, s.price_cents, s.currency, s.per_customer_limit, 'reserved', s.fence, s.seq,
		NOW(6), NOW(6) + INTERVAL ? SECOND FROM stock s WHERE s.sku = ? AND ROW_COUNT() = ?`

func insertArgs(id order.ID, r *order.Request, changed int) []any {
	fingerprint := r.Fingerprint()
	return []any{id[:], []byte(r.Customer), []byte(r.Key), fingerprint[:], r.Quantity, int(paymentWindow.Seconds()), []byte(r.SKU), changed}
}

// commitWith sends one packet that takes units with a statement, inserts the order if
// the statement changed that many rows, commits, and checks that the order exists. An
// empty begin continues the transaction of an earlier packet.
func commitWith(ctx context.Context, conn *sql.Conn, begin, take string, takeArgs []any, changed int, id order.ID, r *order.Request) error {
	args := append(append(takeArgs[:len(takeArgs):len(takeArgs)], insertArgs(id, r, changed)...), id[:])
	var exists bool
	err := conn.QueryRowContext(ctx, begin+take+"; "+insertOrder+"; COMMIT; SELECT EXISTS (SELECT 1 FROM orders WHERE id = ?)", args...).Scan(&exists)
	switch {
	case err == nil && !exists:
		return errRefused
	case err == nil, stock.IsRetryable(err), stock.IsDuplicate(err):
		return err // a definite answer of the server; OnConn rolls back
	}
	return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
}

const begin = "BEGIN; "

// oneTrip runs the whole transaction in one packet.
func (d *database) oneTrip(ctx context.Context, id order.ID, r *order.Request, take string, args ...any) error {
	return d.db.OnConn(ctx, func(conn *sql.Conn) error {
		return commitWith(ctx, conn, begin, take, args, 1, id, r)
	})
}

// textbook reads the stock and writes the result of its subtraction.
var textbook = stock.Writer{Way: strategy.ReadThenWrite}

// readThenWrite is a textbook transaction, which is only correct under a lock.
func readThenWrite(ctx context.Context, conn *sql.Conn, id order.ID, r *order.Request) error {
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
