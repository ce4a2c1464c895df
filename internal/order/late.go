package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/stock"
)

// LatePayment is a payment that bought nothing and has to be refunded. It came after
// the window, with another amount than the order's, or for an order that was cancelled,
// that another payment had paid, or that does not exist. Such an order may have been lost:
// a database that fails over to an asynchronous replica goes back in time.
type LatePayment struct {
	OrderID    ID
	Customer   string // empty if a payment service confirmed an order that does not exist
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
	// A late payment takes its reference, too. One for another customer's order is not
	// stored: it would take the place of that customer's own late payment.
	bindLatePayment = "INSERT INTO payments (reference, order_id) SELECT ?, ? FROM DUAL " +
		"WHERE NOT EXISTS (SELECT 1 FROM payments WHERE reference = ?) " +
		"AND NOT EXISTS (SELECT 1 FROM orders WHERE id = ? AND customer <> ?) " +
		"AND NOT EXISTS (SELECT 1 FROM archived_orders WHERE id = ? AND customer <> ?)"
	keepLatePayment = "INSERT INTO late_payments (order_id, customer, reference, received_at) SELECT order_id, ?, reference, NOW(6) " +
		"FROM payments p WHERE reference = ? AND order_id = ? " +
		"AND NOT EXISTS (SELECT 1 FROM late_payments l WHERE l.order_id = p.order_id AND l.reference = p.reference)"
	// isLatePayment is 0 for a reference of another order.
	isLatePayment = "SELECT order_id = ? FROM payments WHERE reference = ?"
	isStored      = "SELECT COUNT(*) FROM late_payments WHERE order_id = ? AND reference = ?"
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

// keepLate stores a payment that bought nothing, once.
func (s *Service) keepLate(ctx context.Context, p *Payment) error {
	id, who, reference := p.Order[:], []byte(p.Customer), []byte(p.Reference)
	if p.Late != nil {
		var stored bool
		if err := s.cfg.DB.SQL.QueryRowContext(ctx, isStored, id, reference).Scan(&stored); err != nil {
			return unavailable(fmt.Errorf("look up a late payment: %w", err))
		}
		if stored {
			return nil
		}
		if err := p.Late(); err != nil {
			return err
		}
	}
	mine := true
	err := retryBound(func() error {
		return s.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
			err := conn.QueryRowContext(ctx, bindLatePayment+"; "+keepLatePayment+"; "+isLatePayment,
				reference, id, reference, id, who, id, who, who, reference, id, id, reference).Scan(&mine)
			if errors.Is(err, sql.ErrNoRows) {
				return nil // another customer's order
			}
			return err
		})
	})
	switch {
	case err != nil:
		return domainError(outcomeOfStatement(fmt.Errorf("store a late payment: %w", err)))
	case !mine:
		return ErrReferenceUsed
	}
	return nil
}

// retryBound is retryRolledBack for statements that store a reference in payments. They
// fail if another call stores it at the same moment. The next try finds it.
func retryBound(f func() error) (err error) {
	for range batchAttempts {
		if err = retryRolledBack(f); !stock.IsDuplicate(err) {
			break
		}
	}
	return err
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
