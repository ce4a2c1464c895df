// Package shop is what an exercise gives to its code: a connection to the stock, a lock
// or etcd, and Serve, which runs the code as one buyer in a process of its own. Each
// statement and each request to etcd is a step. The check stops a buyer before a step of
// its choice while another buyer goes on.
package shop

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock"
)

// SKU is what the shop sells: the row of table stock with this sku.
const SKU = "sneaker"

// Order is a request for one unit.
type Order struct {
	Customer string
	// Key is the customer's idempotency key: a retry of a request has the same one.
	Key string
}

// Code is the code of an exercise, which sets one field.
type Code struct {
	// Buy sells one unit, or reports false if none is left. An error means that the
	// order was not decided.
	Buy func(ctx context.Context, db *Conn, order Order) (sold bool, err error)
	// BuyHolding is Buy for a holder of the SKU's lock. stock.ErrFenced means that the
	// lock has a later holder, so that nothing was written.
	BuyHolding func(ctx context.Context, db *Conn, held lock.Held, order Order) (sold bool, err error)
	// NewTryLock makes the SKU's lock in etcd. owner differs from process to process. A
	// process makes one for each grant, all with the same owner.
	NewTryLock func(client *clientv3.Client, owner string) TryLock
	// NewLocker makes a lock in etcd, whose grants survive their process for ttl.
	NewLocker func(client *clientv3.Client, owner string, ttl time.Duration) lock.Locker
}

// TryLock is a lock that does not wait.
type TryLock interface {
	// TryLock reports whether the lock was free and is now the caller's.
	TryLock(ctx context.Context) (bool, error)
	// Unlock ends the caller's grant, and never another's.
	Unlock(ctx context.Context) error
}

// Conn is a connection to the database of the shop, in READ COMMITTED. Each call is a
// step. A transaction begins with Exec(ctx, "BEGIN"); what is open when the order's code
// returns is rolled back.
type Conn struct {
	conn  *sql.Conn
	steps *steps
}

// Exec runs a statement and returns how many rows it has changed.
func (c *Conn) Exec(ctx context.Context, query string, args ...any) (changed int64, err error) {
	return c.exec(ctx, statement(query, args), query, args)
}

func (c *Conn) exec(ctx context.Context, text, query string, args []any) (changed int64, err error) {
	err = c.steps.take(ctx, inMySQL, text, func() (string, error) {
		result, err := c.conn.ExecContext(ctx, query, args...)
		if err != nil {
			return "", err
		}
		switch query {
		case "BEGIN", "COMMIT", "ROLLBACK":
			return "", nil
		}
		changed, err = result.RowsAffected()
		return plural(changed, "row") + " changed", err
	})
	return changed, err
}

// QueryRow runs a query of at most one row when the row is scanned.
func (c *Conn) QueryRow(ctx context.Context, query string, args ...any) *Row {
	return &Row{ctx, c, query, args}
}

// Row is the result of QueryRow.
type Row struct {
	ctx   context.Context
	conn  *Conn
	query string
	args  []any
}

// Scan runs the query, and copies the columns of its row as (*sql.Row).Scan does. It
// returns sql.ErrNoRows if there is no row.
func (r *Row) Scan(dest ...any) error {
	return r.conn.steps.take(r.ctx, inMySQL, statement(r.query, r.args), func() (string, error) {
		if err := r.conn.conn.QueryRowContext(r.ctx, r.query, r.args...).Scan(dest...); err != nil {
			return "", err
		}
		var values []string
		for _, d := range dest {
			values = append(values, fmt.Sprint(reflect.ValueOf(d).Elem()))
		}
		return strings.Join(values, ", "), nil
	})
}

const insertOrder = `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
	status, fence, seq, created_at, expires_at)
	VALUES (?, ?, ?, ?, REPEAT('0', 32), 1, 9900, 'EUR', 'reserved', 0, 0, NOW(6), NOW(6) + INTERVAL 15 MINUTE)`

// InsertOrder writes an order of one unit into table orders. stock.IsDuplicate reports
// whether its error is that the customer has an order with this idempotency key.
func (c *Conn) InsertOrder(ctx context.Context, customer, key string) error {
	id := uuid.Must(uuid.NewV7())
	text := fmt.Sprintf("INSERT INTO orders ... customer '%s', idempotency_key '%s'", customer, key)
	_, err := c.exec(ctx, text, insertOrder, []any{id[:], SKU, customer, key})
	return err
}

// statement is a query as people read it, on one line and with its arguments.
func statement(query string, args []any) string {
	text := strings.Join(strings.Fields(query), " ")
	for _, arg := range args {
		value := fmt.Sprint(arg)
		if s, ok := arg.(string); ok {
			value = "'" + s + "'"
		}
		text = strings.Replace(text, "?", value, 1)
	}
	return text
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
