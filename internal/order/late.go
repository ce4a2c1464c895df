package order

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashsale/internal/stock"
)

// LatePayment is a payment that bought nothing and has to be refunded. It came after
// the window, or for an order that was cancelled, that another payment had paid, or
// that does not exist. Such an order may have been lost: a database that fails over to
// an asynchronous replica goes back in time.
type LatePayment struct {
	OrderID    ID
	Customer   string
	Reference  string
	ReceivedAt time.Time
}

// LateCursor is a position in the list of late payments. The zero value is its start.
type LateCursor struct {
	ReceivedAt time.Time
	OrderID    ID
	Reference  string
}

// Cursor is p's position in the list.
func (p *LatePayment) Cursor() LateCursor { return LateCursor{p.ReceivedAt, p.OrderID, p.Reference} }

const (
	// A reference for another customer's order is not stored: it would take the place
	// of that customer's own late payment.
	keepLatePayment = "INSERT INTO late_payments (order_id, customer, reference, received_at) SELECT ?, ?, ?, NOW(6) FROM DUAL " +
		"WHERE NOT EXISTS (SELECT 1 FROM orders WHERE id = ? AND customer <> ?) " +
		"AND NOT EXISTS (SELECT 1 FROM archived_orders WHERE id = ? AND customer <> ?)"
	// The joins leave out payments that did pay in time: their call was not answered,
	// and the repeated one came after the window.
	listLatePayments = "SELECT l.order_id, l.customer, l.reference, l.received_at FROM late_payments l FORCE INDEX (oldest) " +
		"LEFT JOIN orders o ON o.id = l.order_id AND o.status = 'paid' AND o.payment_reference = l.reference " +
		"LEFT JOIN archived_orders a ON a.id = l.order_id AND a.status = 'paid' AND a.payment_reference = l.reference " +
		"WHERE o.id IS NULL AND a.id IS NULL AND l.received_at >= ? AND (l.received_at > ? OR l.order_id > ? OR l.order_id = ? AND l.reference > ?) " +
		"ORDER BY l.received_at, l.order_id, l.reference LIMIT ?"
)

// epoch is the start of a query by time. The zero time is no valid DATETIME.
var epoch = time.Unix(0, 0)

func (s *Service) keepLate(ctx context.Context, id ID, customer, reference string) error {
	who := []byte(customer)
	err := retryRolledBack(func() error {
		return s.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
			_, err := conn.ExecContext(ctx, keepLatePayment, id[:], who, []byte(reference), id[:], who, id[:], who)
			return err
		})
	})
	if err == nil || stock.IsDuplicate(err) {
		return nil
	}
	return domainError(outcomeOfStatement(fmt.Errorf("store a late payment: %w", err)))
}

// LatePayments reads up to limit late payments after a position, the oldest first.
func (s *Service) LatePayments(ctx context.Context, after LateCursor, limit int) (late []LatePayment, err error) {
	from := after.ReceivedAt
	if from.IsZero() {
		from = epoch
	}
	late, err = stock.Query(ctx, s.cfg.DB.SQL, func(p *LatePayment) []any { return []any{&p.OrderID, &p.Customer, &p.Reference, &p.ReceivedAt} },
		listLatePayments, from, from, after.OrderID[:], after.OrderID[:], []byte(after.Reference), limit)
	if err != nil {
		return nil, unavailable(fmt.Errorf("list late payments: %w", err))
	}
	return late, nil
}
