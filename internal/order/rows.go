package order

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/stock"
)

// This file holds the SQL of the orders table, except what returns units (returns.go),
// expires orders (expirer.go) or purges them (purge.go).

const orderColumns = "id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, " +
	"per_customer_limit, status, fence, seq, created_at, expires_at, closed_at"

// readColumns are orderColumns of the table alias o, and the payment's reference.
const readColumns = "o.id, o.sku, o.customer, o.idempotency_key, o.fingerprint, o.quantity, o.price_cents, o.currency, " +
	"o.per_customer_limit, o.status, o.fence, o.seq, o.created_at, o.expires_at, o.closed_at, COALESCE(o.payment_reference, '')"

// insertOrders appends the statement that inserts the orders of a group. The orders of
// one SKU were decided at the same moment from the same row, so they share their last
// values.
//
// It writes values into the text, because arguments would cost both sides time for
// escaping. Customers and keys may contain any bytes, and are written in hexadecimal.
func insertOrders(b *strings.Builder, group []*write) {
	b.WriteString("INSERT INTO orders (" + orderColumns + ") VALUES ")
	var digits []byte
	text := func(value []byte) {
		digits = hex.AppendEncode(append(digits[:0], "x'"...), value)
		b.Write(append(digits, "',"...))
	}
	separator := "("
	for _, w := range group {
		shared := w.orders[0].sharedValues()
		for _, o := range w.orders {
			b.WriteString(separator)
			separator = ",("
			text(o.ID[:])
			text([]byte(o.SKU))
			text([]byte(o.Customer))
			text([]byte(o.Key))
			text(o.Fingerprint[:])
			digits = strconv.AppendInt(digits[:0], int64(o.Quantity), 10)
			b.Write(digits)
			b.WriteString(shared)
		}
	}
}

// sharedValues are the values after the quantity, up to the end of the row.
func (o *Order) sharedValues() string {
	limit, closed := "NULL", "NULL"
	if o.Limit != nil {
		limit = strconv.Itoa(int(*o.Limit))
	}
	if o.ClosedAt != nil {
		closed = "'" + o.ClosedAt.UTC().Format(stock.DateTime) + "'"
	}
	return fmt.Sprintf(",%d,x'%x',%s,'%s',%d,%d,'%s','%s',%s)", o.PriceCents, o.Currency, limit, o.Status, o.Fence, o.Seq,
		o.CreatedAt.UTC().Format(stock.DateTime), o.ExpiresAt.UTC().Format(stock.DateTime), closed)
}

type byKey struct{ customer, key string }

// keysQuery looks orders up by their keys. The join makes the server look up each key in
// the unique index, however many there are.
func keysQuery(keys []byKey) (query string, args []any) {
	var b strings.Builder
	b.WriteString("SELECT STRAIGHT_JOIN " + readColumns + " FROM (SELECT ? AS customer, ? AS idempotency_key")
	args = make([]any, 0, 2*len(keys))
	for i, k := range keys {
		if i > 0 {
			b.WriteString(" UNION ALL SELECT ?, ?")
		}
		args = append(args, []byte(k.customer), []byte(k.key))
	}
	b.WriteString(") k JOIN orders o ON o.customer = k.customer AND o.idempotency_key = k.idempotency_key")
	return b.String(), args
}

func (db inMySQL) findByKeys(ctx context.Context, keys []byKey) (found map[byKey]Order, err error) {
	query, args := keysQuery(keys)
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		orders, err := stock.Query(ctx, conn, (*Order).columns, query, args...)
		if err != nil {
			return fmt.Errorf("look up keys: %w", err)
		}
		found = byKeys(orders)
		return nil
	})
	return found, err
}

// replayOr answers r with the existing order of its key. If there is none, it returns
// reason.
func replayOr(ctx context.Context, db database, r *Request, reason error) (Placed, error) {
	key := byKey{r.Customer, r.Key}
	found, err := db.findByKeys(ctx, []byKey{key})
	if err != nil {
		return Placed{}, err
	}
	if o, ok := found[key]; ok {
		return replayOf(o, r)
	}
	return Placed{}, reason
}

func byKeys(orders []Order) map[byKey]Order {
	found := make(map[byKey]Order, len(orders))
	for _, o := range orders {
		found[byKey{o.Customer, o.Key}] = o
	}
	return found
}

// placeholders is a list of n placeholders in parentheses. n must be positive.
func placeholders(n int) string { return "(?" + strings.Repeat(", ?", n-1) + ")" }

func idArgs(ids []ID) []any {
	args := make([]any, len(ids))
	for i := range ids {
		args[i] = ids[i][:]
	}
	return args
}

func findEnded(ctx context.Context, db *stock.DB, ids []ID) ([]ID, error) {
	query := "SELECT id FROM orders WHERE id IN " + placeholders(len(ids)) + " AND status IN ('cancelled', 'expired')"
	ended, err := stock.Query(ctx, db.SQL, oneColumn[ID], query, idArgs(ids)...)
	if err != nil {
		return nil, fmt.Errorf("look up ended orders: %w", err)
	}
	return ended, nil
}

// oneColumn returns the destination of a row's only column.
func oneColumn[T any](to *T) []any { return []any{to} }

func customerArgs(customers []string) []any {
	args := make([]any, len(customers))
	for i, c := range customers {
		args[i] = []byte(c)
	}
	return args
}

// heldBy reads what each of the customers holds of sku. The index contains the SKU as
// part of the primary key, so it does not read the orders for other SKUs.
func heldBy(ctx context.Context, conn *sql.Conn, sku string, policy stock.HoldPolicy, customers []string) (map[string]holding, error) {
	ends, counts, groups := "NULL", "status IN ('reserved', 'paid')", "customer"
	if policy == stock.Strict {
		ends, counts, groups = "IF("+counts+", NULL, expires_at)", "("+counts+" OR expires_at > NOW(6))", "customer, ends"
	}
	query := "SELECT customer, SUM(quantity), " + ends + " AS ends FROM orders FORCE INDEX (one_order_a_key) WHERE customer IN " +
		placeholders(len(customers)) + " AND sku = ? AND " + counts + " GROUP BY " + groups
	type row struct {
		customer string
		units    int64
		ends     *time.Time
	}
	rows, err := stock.Query(ctx, conn, func(r *row) []any { return []any{&r.customer, &r.units, &r.ends} }, query,
		append(customerArgs(customers), []byte(sku))...)
	if err != nil {
		return nil, fmt.Errorf("read what customers hold: %w", err)
	}
	held := make(map[string]holding, len(rows))
	for _, r := range rows {
		held[r.customer] = held[r.customer].add(r.units, r.ends)
	}
	return held, nil
}

func (db inMySQL) heldBy(ctx context.Context, sku string, policy stock.HoldPolicy, customers []string) (held map[string]holding, err error) {
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		held, err = heldBy(ctx, conn, sku, policy, customers)
		return err
	})
	return held, err
}

// Find reads one order of a customer. It returns ErrNotFound or ErrUnavailable.
func (s *Service) Find(ctx context.Context, customer string, id ID) (Order, error) {
	o, err := s.cfg.database.find(ctx, customer, id)
	return o, domainError(err)
}

func (db inMySQL) find(ctx context.Context, customer string, id ID) (Order, error) {
	return scanOrder(db.SQL.QueryRowContext(ctx, "SELECT "+readColumns+" FROM orders o WHERE o.id = ? AND o.customer = ?", id[:], []byte(customer)))
}

// payment is a way to record a payment: two statements, each of which commits by itself.
// bind stores which order the reference is for, unless that is known. update changes only
// that order.
type payment struct{ bind, update string }

var (
	// payOrder is a compare-and-swap. After the window it changes nothing, whether or
	// not the Expirer has ended the order. NOW(6) is the time at which the server
	// began the statement, even if it then waited for the row.
	payOrder = payment{bindPayment + "orders WHERE " + payable + unbound,
		"UPDATE orders FORCE INDEX (PRIMARY) SET status = 'paid', closed_at = NOW(6), payment_reference = ? WHERE " + payable + bound}
	// namePayment and nameArchived set the reference of an order that was paid without one.
	namePayment = payment{bindPayment + "orders WHERE " + unnamed + unbound,
		"UPDATE orders FORCE INDEX (PRIMARY) SET payment_reference = ? WHERE " + unnamed + bound}
	nameArchived = payment{bindPayment + "archived_orders WHERE " + unnamed + unbound,
		"UPDATE archived_orders SET payment_reference = ? WHERE " + unnamed + bound}
)

const (
	bindPayment = "INSERT INTO payments (reference, order_id) SELECT ?, id FROM "
	payable     = "id = ? AND customer = ? AND status = 'reserved' AND expires_at > NOW(6)"
	unnamed     = "id = ? AND customer = ? AND status = 'paid' AND payment_reference IS NULL"
	unbound     = " AND NOT EXISTS (SELECT 1 FROM payments WHERE reference = ?)"
	bound       = " AND (? IS NULL OR id = (SELECT order_id FROM payments WHERE reference = ?))"
	readOrder   = readPaid + "orders o WHERE o.id = ? AND o.customer = ?"
	// readArchived is for payments of purged orders.
	readArchived = readPaid + "archived_orders o WHERE o.id = ? AND o.customer = ?"
	readPaid     = "SELECT " + readColumns + ", NOW(6), COALESCE((SELECT p.order_id <> o.id FROM payments p WHERE p.reference = ?), 0) FROM "
	findPayable  = "SELECT " + readColumns + " FROM orders o WHERE o.id = ? AND ? IN (o.customer, '') " +
		"UNION ALL SELECT " + readColumns + " FROM archived_orders o WHERE o.id = ? AND ? IN (o.customer, '') LIMIT 1"
	// listOrders reads all entries of the customer in the index of keys: about 0.2 ms
	// for a thousand orders.
	listOrders = "SELECT " + readColumns + " FROM (SELECT id FROM orders FORCE INDEX (one_order_a_key) WHERE customer = ? AND id < ? " + listPage
	// listRecent searches the latest orders of all customers. It is faster only for a
	// customer with very many orders.
	listRecent = "SELECT " + readColumns + " FROM (SELECT id FROM " +
		"(SELECT id, customer = ? AS theirs FROM orders FORCE INDEX (PRIMARY) WHERE id < ? ORDER BY id DESC LIMIT 2000) recent WHERE theirs " + listPage
	listPage = "ORDER BY id DESC LIMIT ?) page STRAIGHT_JOIN orders o ON o.id = page.id ORDER BY o.id DESC"
	// listOrdersOf reads a SKU's orders by its seq, as of_sku has them.
	listOrdersOf = "SELECT " + readColumns + " FROM orders o FORCE INDEX (of_sku) " +
		"WHERE o.sku = ? AND o.seq >= ? AND (o.seq > ? OR o.id > ?) ORDER BY o.seq, o.id LIMIT ?"
	hasMany = "SELECT COUNT(*) = 2000 FROM (SELECT id FROM orders FORCE INDEX (one_order_a_key) WHERE customer = ? LIMIT 2000) some"
)

// Lookup reads an order of any customer. It returns ErrNotFound or ErrUnavailable.
func (s *Service) Lookup(ctx context.Context, id ID) (Order, error) {
	o, err := scanOrder(s.cfg.DB.SQL.QueryRowContext(ctx, "SELECT "+readColumns+" FROM orders o WHERE o.id = ?", id[:]))
	return o, domainError(err)
}

// findPayable reads an order of a customer, or of any if customer is "", also a purged one.
func (db inMySQL) findPayable(ctx context.Context, customer string, id ID) (Order, error) {
	who := []byte(customer)
	return scanOrder(db.SQL.QueryRowContext(ctx, findPayable, id[:], who, id[:], who))
}

// pay sends one packet: the statements of a payment, and one that reads the order. It
// also reads a purged order, because its late payment has to be stored. used is true if
// the reference is another order's.
func (db inMySQL) pay(ctx context.Context, how payment, customer string, id ID, reference string) (o Order, now time.Time, used bool, err error) {
	who := []byte(customer)
	var named []byte // NULL if empty
	query, args := how.update+"; "+readOrder, []any{}
	if reference != "" {
		named = []byte(reference)
		query, args = how.bind+"; "+query, []any{named, id[:], who, named}
	}
	read := []any{named, id[:], who}
	args = slices.Concat(args, []any{named, id[:], who, named, named}, read)
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		var err error
		if o, err = scanOrder(conn.QueryRowContext(ctx, query, args...), &now, &used); errors.Is(err, ErrNotFound) {
			o, err = scanOrder(conn.QueryRowContext(ctx, readArchived, read...), &now, &used)
		}
		return err
	})
	return o, now, used, err
}

// List reads up to limit of a customer's orders, the newest first: those made before the
// given one, or the newest of all if before is zero. For a customer with very many
// orders it searches the latest orders of all customers first.
func (s *Service) List(ctx context.Context, customer string, before ID, limit int) (orders []Order, err error) {
	if before == (ID{}) {
		before = uuid.Max
	}
	db, args := s.cfg.DB.SQL, []any{[]byte(customer), before[:], limit}
	var many bool
	err = db.QueryRowContext(ctx, hasMany, []byte(customer)).Scan(&many)
	if err == nil && many {
		orders, err = stock.Query(ctx, db, (*Order).columns, listRecent, args...)
	}
	if err == nil && len(orders) < limit {
		orders, err = stock.Query(ctx, db, (*Order).columns, listOrders, args...)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("list orders: %w", err))
	}
	return orders, nil
}

// SKUCursor is a position in the list of a SKU's orders. The zero value is its start.
type SKUCursor struct {
	Seq uint64
	ID  ID
}

// SKUCursor is o's position in the list of its SKU's orders.
func (o *Order) SKUCursor() SKUCursor { return SKUCursor{o.Seq, o.ID} }

// ListOf reads up to limit orders of a SKU after a position, of all customers and in the
// order in which they were made. New orders come after those that were listed. Purged
// orders are left out: the archive has no index of SKUs.
func (s *Service) ListOf(ctx context.Context, sku string, after SKUCursor, limit int) ([]Order, error) {
	orders, err := stock.Query(ctx, s.cfg.DB.SQL, (*Order).columns, listOrdersOf, []byte(sku), after.Seq, after.Seq, after.ID[:], limit)
	if err != nil {
		return nil, unavailable(fmt.Errorf("list the orders of %s: %w", sku, err))
	}
	return orders, nil
}

// columns returns the destinations of readColumns.
func (o *Order) columns() []any {
	return []any{&o.ID, &o.SKU, &o.Customer, &o.Key, &o.Fingerprint, &o.Quantity, &o.PriceCents, &o.Currency,
		&o.Limit, &o.Status, &o.Fence, &o.Seq, &o.CreatedAt, &o.ExpiresAt, &o.ClosedAt, &o.PaymentReference}
}

// scanOrder reads readColumns, followed by the query's other columns. It returns
// ErrNotFound if there is no row.
func scanOrder(from *sql.Row, more ...any) (o Order, err error) {
	err = from.Scan(append(o.columns(), more...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, fmt.Errorf("read order: %w", err)
	}
	return o, nil
}
