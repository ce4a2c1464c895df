package order

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/stock"
)

// This file is about what a customer may hold: units of one SKU, and unpaid orders of all.
//
// Orders of one customer for several SKUs are written by different transactions, perhaps
// at different replicas. So that each counts the others, a transaction first locks the
// customer's row (turnOf), after all stock rows and in the order of the customers, so that
// no two transactions wait for each other. The next transaction then sees its orders.

// holding is what a customer holds of one SKU.
type holding struct {
	units int64 // that count against the limit
	// cancelled are those of the units that count only until a time, under a strict hold policy.
	cancelled []cancelledUnits
}

type cancelledUnits struct {
	units int64
	until time.Time
}

// add adds units. until is nil unless they are of cancelled orders.
func (h holding) add(units int64, until *time.Time) holding {
	h.units += units
	if until != nil {
		h.cancelled = append(h.cancelled, cancelledUnits{units, *until})
	}
	return h
}

// overLimit refuses an order that would bring the customer above the limit. n is its units,
// with those of earlier orders that are not in h.
func (h holding) overLimit(n, limit int64) error {
	above := h.units + n - limit
	for _, c := range slices.SortedFunc(slices.Values(h.cancelled), func(a, b cancelledUnits) int { return a.until.Compare(b.until) }) {
		if above -= c.units; above <= 0 {
			return &StillHeldError{Until: c.until}
		}
	}
	return ErrCustomerLimit // also without the cancelled units
}

// StillHeldError is an ErrCustomerLimit of an order that would be within the limit if the
// units that the customer has cancelled did not count, under a strict hold policy. Until is
// the earliest time at which enough of them no longer count.
type StillHeldError struct{ Until time.Time }

func (e *StillHeldError) Error() string {
	return fmt.Sprintf("%s: because of cancelled orders, until %s", ErrCustomerLimit, e.Until.Format(time.RFC3339Nano))
}

func (e *StillHeldError) Unwrap() error { return ErrCustomerLimit }

// unpaidCustomers are the customers of a group's unpaid orders, if their number is
// limited, in the order in which they are locked.
func unpaidCustomers(group []*write) (customers []string) {
	if group[0].maxUnpaid == 0 {
		return nil
	}
	for _, w := range group {
		customers = append(customers, w.unpaidCustomers()...)
	}
	slices.Sort(customers)
	return slices.Compact(customers)
}

// unpaidCustomers are the customers of the unpaid orders, one for each order.
func (w *write) unpaidCustomers() (customers []string) {
	for _, o := range w.orders {
		if o.Status == Reserved {
			customers = append(customers, o.Customer)
		}
	}
	return customers
}

// turnOf are the statements by which a transaction locks its customers until COMMIT. They
// have no placeholders: see stock.Take. The second one repeats the first, because MySQL does
// not tell whose the lock of an inserted row is, so that stock.EndingBlockers would not find
// an idle owner; it does tell once the owner has locked the row again.
func turnOf(customers []string) string {
	rows := make([]string, len(customers))
	for i, c := range customers {
		rows[i] = fmt.Sprintf("(x'%x',NOW(6))", c)
	}
	lock := stock.LockCustomers + strings.Join(rows, ",") + " ON DUPLICATE KEY UPDATE ordered_at = NOW(6)"
	return lock + "; " + lock
}

const (
	countUnpaid  = " FROM orders FORCE INDEX (one_order_a_key) WHERE customer IN "
	onlyReserved = " AND status = 'reserved' GROUP BY customer"
)

// stopAbove are two statements that stop the packet if one of the customers has more than
// most unpaid orders. A subquery of SET would lock the orders, and so wait for whoever
// cancels, expires or pays one of them.
func stopAbove(most int, customers []string) string {
	names := make([]string, len(customers))
	for i, c := range customers {
		names[i] = fmt.Sprintf("x'%x'", c)
	}
	return "SELECT COALESCE(MAX(orders), 0) FROM (SELECT COUNT(*) AS orders" + countUnpaid + "(" + strings.Join(names, ",") + ")" + onlyReserved +
		") unpaid INTO @unpaid; " + stock.StopIf(fmt.Sprintf("@unpaid > %d", most))
}

// unpaidOf counts the reserved orders of each of the customers. It reads all their orders.
func unpaidOf(ctx context.Context, conn *sql.Conn, customers []string) (map[string]int, error) {
	type row struct {
		customer string
		orders   int
	}
	rows, err := stock.Query(ctx, conn, func(r *row) []any { return []any{&r.customer, &r.orders} },
		"SELECT customer, COUNT(*)"+countUnpaid+placeholders(len(customers))+onlyReserved, customerArgs(customers)...)
	if err != nil {
		return nil, fmt.Errorf("count unpaid orders: %w", err)
	}
	unpaid := make(map[string]int, len(rows))
	for _, r := range rows {
		unpaid[r.customer] = r.orders
	}
	return unpaid, nil
}

func (db inMySQL) unpaidOf(ctx context.Context, customers []string) (unpaid map[string]int, err error) {
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		unpaid, err = unpaidOf(ctx, conn, customers)
		return err
	})
	return unpaid, err
}
