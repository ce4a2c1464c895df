package peer

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// This file has the statements of conditional-batched. They contain their values, with
// bytes as hexadecimal digits, so that nothing needs escaping.

// The packet that writes a batch. LAST_INSERT_ID(n) keeps the seq that an UPDATE
// writes for the orders of its SKU. If the UPDATE changes no row, the subquery
// returns two rows, and error 1242 ends the packet before the INSERT.
var (
	beginBatch = fmt.Sprintf("SET @made = NOW(6), @due = NOW(6) + INTERVAL %d SECOND; BEGIN; ", int(paymentWindow.Seconds()))
	takeUnits  = "UPDATE stock SET available = available - %[1]d, seq = LAST_INSERT_ID(seq + 1), updated_at = @made " +
		"WHERE sku = X'%[2]x' AND available >= %[1]d; " +
		"SET @seq%[3]d = IF(ROW_COUNT() = 1, LAST_INSERT_ID(), (SELECT 1 UNION SELECT 2)); "
	insertBatch = "INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, " +
		"per_customer_limit, status, fence, seq, created_at, expires_at) VALUES "
	endBatch = "; COMMIT; SELECT CAST(@made AS DATETIME(6))"
)

// errSubqueryRows is the server's error for a subquery with more rows than one.
const errSubqueryRows = 1242

// isShort reports whether the server refused a batch because a SKU had too few units.
func isShort(err error) bool {
	refused, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && refused.Number == errSubqueryRows
}

// writeBatch writes all orders of the batch or none, and returns their time by the
// server's clock. If the error isShort, a duplicate key or retryable, none was
// written.
func writeBatch(ctx context.Context, db *stock.DB, batch []*ticket) (made time.Time, err error) {
	query := batchPacket(batch)
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		err := conn.QueryRowContext(ctx, query).Scan(&made)
		if err == nil || isShort(err) || stock.IsDuplicate(err) || stock.IsRetryable(err) || errors.Is(err, driver.ErrBadConn) {
			return err // a definite error: of the server, or of the driver before it sent anything
		}
		return fmt.Errorf("%w: %w", stock.ErrOutcomeUnknown, err)
	})
	return made, err
}

// batchPacket sorts the batch: locking the rows in one order prevents deadlocks.
func batchPacket(batch []*ticket) string {
	slices.SortStableFunc(batch, func(a, b *ticket) int { return cmp.Compare(a.request.SKU, b.request.SKU) })
	takes, rows := []byte(beginBatch), make([]byte, 0, len(batch)*rowSize)
	number := 0 // of the SKU, in this batch
	for from := 0; from < len(batch); number++ {
		sku, units, to := batch[from].request.SKU, int64(0), from
		for ; to < len(batch) && batch[to].request.SKU == sku; to++ {
			units += int64(batch[to].request.Quantity)
			rows = append(appendRow(rows, batch[to], number), ", "...)
		}
		takes = fmt.Appendf(takes, takeUnits, units, sku, number)
		from = to
	}
	return string(takes) + insertBatch + string(rows[:len(rows)-len(", ")]) + endBatch
}

// rowSize is about the size of a row with short customers and keys.
const rowSize = 320

// appendRow appends the values of an order whose SKU has that number.
func appendRow(text []byte, t *ticket, number int) []byte {
	text = appendBytes(append(text, '('), t.id[:])
	text = appendBytes(append(text, ", "...), []byte(t.request.SKU))
	text = appendBytes(append(text, ", "...), []byte(t.request.Customer))
	text = appendBytes(append(text, ", "...), []byte(t.request.Key))
	text = appendBytes(append(text, ", "...), t.fingerprint[:])
	text = strconv.AppendInt(append(text, ", "...), int64(t.request.Quantity), 10)
	text = strconv.AppendInt(append(text, ", "...), t.row.PriceCents, 10)
	text = appendBytes(append(text, ", "...), []byte(t.row.Currency))
	if limit := t.row.PerCustomerLimit; limit != nil {
		text = strconv.AppendInt(append(text, ", "...), int64(*limit), 10)
	} else {
		text = append(text, ", NULL"...)
	}
	text = strconv.AppendInt(append(text, ", 'reserved', 0, @seq"...), int64(number), 10) // 0: no fence
	return append(text, ", @made, @due)"...)
}

func appendBytes(text, value []byte) []byte {
	return append(hex.AppendEncode(append(text, "X'"...), value), '\'')
}

// look reads in one packet the units left of the SKUs of these orders, and the orders
// with their keys. It reads the keys last, so that they include an order that took
// the last units.
func look(ctx context.Context, db *stock.DB, tickets []*ticket) (left map[string]int64, found map[identity]order.Order, err error) {
	left, found = map[string]int64{}, map[identity]order.Order{}
	query := lookPacket(tickets)
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var sku string
			var available int64
			if err := rows.Scan(&sku, &available); err != nil {
				return err
			}
			left[sku] = available
		}
		if !rows.NextResultSet() {
			return errors.Join(errors.New("no result for the keys"), rows.Err())
		}
		for rows.Next() {
			o := order.Order{Status: order.Reserved} // as in the first answer
			var id, fingerprint []byte
			if err := rows.Scan(&id, &o.SKU, &o.Customer, &o.Key, &fingerprint, &o.Quantity, &o.PriceCents, &o.Currency, &o.CreatedAt, &o.ExpiresAt); err != nil {
				return err
			}
			copy(o.ID[:], id)
			copy(o.Fingerprint[:], fingerprint)
			found[identity{o.Customer, o.Key}] = o
		}
		return rows.Err()
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the stock and the keys of a batch: %w", err)
	}
	return left, found, nil
}

// lookPacket forces the unique index, which the optimizer may not use for many keys.
func lookPacket(tickets []*ticket) string {
	var skus []byte
	keys := make([]byte, 0, len(tickets)*keySize)
	seen := map[string]bool{}
	for _, t := range tickets {
		if sku := t.request.SKU; !seen[sku] {
			seen[sku] = true
			skus = append(appendBytes(skus, []byte(sku)), ", "...)
		}
		keys = appendBytes(append(keys, '('), []byte(t.request.Customer))
		keys = appendBytes(append(keys, ", "...), []byte(t.request.Key))
		keys = append(keys, "), "...)
	}
	return "SELECT sku, available FROM stock WHERE sku IN (" + string(skus[:len(skus)-len(", ")]) + "); " +
		selectOrders + "(" + string(keys[:len(keys)-len(", ")]) + ")"
}

const (
	// keySize is about the size of a short key with its customer.
	keySize      = 160
	selectOrders = "SELECT id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency, created_at, expires_at " +
		"FROM orders FORCE INDEX (one_order_a_key) WHERE (customer, idempotency_key) IN "
)
