package order

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashsale/internal/stock"
)

// LatePayment is a payment that bought nothing, and is to be refunded: it came
// after the window, for a cancelled order, for one that another had paid, or for
// one that is not there. Such an order may have been lost: a database that fails
// over to an asynchronous replica goes back in time.
type LatePayment struct {
	OrderID    ID
	Customer   string
	Reference  string
	ReceivedAt time.Time
}

// LateCursor is a place in the list of late payments. The zero value is before
// all of them.
type LateCursor struct {
	ReceivedAt time.Time
	OrderID    ID
	Reference  string
}

// Cursor is p's place in the list.
func (p *LatePayment) Cursor() LateCursor { return LateCursor{p.ReceivedAt, p.OrderID, p.Reference} }

// LatePayments reads up to limit late payments behind a place, the oldest first.
func (s *Service) LatePayments(ctx context.Context, after LateCursor, limit int) ([]LatePayment, error) {
	late, err := listLate(ctx, s.cfg.DB, after, limit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return late, nil
}

// keepLate keeps a payment that bought nothing, once.
func (s *Service) keepLate(ctx context.Context, id ID, customer, reference string) error {
	err := retried(func() error { return insertLate(ctx, s.cfg.DB, id, customer, reference) })
	if stock.IsDuplicate(err) {
		return nil
	}
	return trouble(err)
}

// All SQL of the table of late payments.
const (
	// Who names another's order keeps nothing: it would take the place of that
	// customer's own late payment.
	keepLatePayment = "INSERT INTO late_payments (order_id, customer, reference, received_at) SELECT ?, ?, ?, NOW(6) FROM DUAL " +
		"WHERE NOT EXISTS (SELECT 1 FROM orders WHERE id = ? AND customer <> ?) " +
		"AND NOT EXISTS (SELECT 1 FROM archived_orders WHERE id = ? AND customer <> ?)"
	// A payment that was given up without an answer, and whose reference was kept
	// as the window had passed, may have paid in time all the same.
	listLatePayments = "SELECT l.order_id, l.customer, l.reference, l.received_at FROM late_payments l FORCE INDEX (oldest) " +
		"LEFT JOIN orders o ON o.id = l.order_id AND o.status = 'paid' AND o.payment_reference = l.reference " +
		"LEFT JOIN archived_orders a ON a.id = l.order_id AND a.status = 'paid' AND a.payment_reference = l.reference " +
		"WHERE o.id IS NULL AND a.id IS NULL AND l.received_at >= ? AND (l.received_at > ? OR l.order_id > ? OR l.order_id = ? AND l.reference > ?) " +
		"ORDER BY l.received_at, l.order_id, l.reference LIMIT ?"
)

func insertLate(ctx context.Context, db *stock.DB, id ID, customer, reference string) error {
	return db.OnConn(ctx, func(conn *sql.Conn) error {
		who := []byte(customer)
		if _, err := conn.ExecContext(ctx, keepLatePayment, id[:], who, []byte(reference), id[:], who, id[:], who); err != nil {
			return fmt.Errorf("keep a late payment: %w", err)
		}
		return nil
	})
}

func listLate(ctx context.Context, db *stock.DB, after LateCursor, limit int) ([]LatePayment, error) {
	from := after.ReceivedAt
	if from.IsZero() {
		from = time.Unix(0, 0) // which a server takes for a date
	}
	rows, err := db.SQL.QueryContext(ctx, listLatePayments, from, from, after.OrderID[:], after.OrderID[:], []byte(after.Reference), limit)
	if err != nil {
		return nil, fmt.Errorf("list late payments: %w", err)
	}
	defer rows.Close()
	var late []LatePayment
	for rows.Next() {
		var p LatePayment
		var id []byte
		if err := rows.Scan(&id, &p.Customer, &p.Reference, &p.ReceivedAt); err != nil {
			return nil, fmt.Errorf("read a late payment: %w", err)
		}
		copy(p.OrderID[:], id)
		late = append(late, p)
	}
	return late, rows.Err()
}
