package order_test

import (
	"database/sql"
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// While a cancellation or the Expirer ends an order of a customer, the customer's order for
// another SKU neither waits for it nor deadlocks with it.
func TestUnpaidOrdersAreCountedWithoutLockingThem(t *testing.T) {
	t.Parallel()
	for _, name := range ofEachKind {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, options{dsn: newDSN(t, stock.Stock{Units: 5}), strategy: name, maxUnpaid: 2})
			if _, _, err := r.orders.PutSKU(t.Context(), thing(stock.Stock{Units: 5}), order.Precondition{}); err != nil { // creates the stock in etcd
				t.Fatal(err)
			}
			first, err := r.orders.Place(t.Context(), buy("ann", "k", 1))
			if err != nil {
				t.Fatal(err)
			}
			ending, err := r.db.SQL.BeginTx(t.Context(), &sql.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ending.Rollback() }()
			if _, err := ending.ExecContext(t.Context(), "UPDATE orders SET status = 'cancelled' WHERE id = ?", first.Order.ID[:]); err != nil {
				t.Fatal(err)
			}
			if _, err := r.orders.Place(t.Context(), buy("ann", "k2", 1)); err != nil {
				t.Errorf("a second order: %v", err)
			}
			_, err = r.orders.Place(t.Context(), buy("ann", "k3", 1))
			mustBe(t, "a third order before the first has ended", err, order.ErrTooManyUnpaid)
			if err := ending.Commit(); err != nil {
				t.Error(err)
			}
			if _, err := r.orders.Place(t.Context(), buy("ann", "k3", 1)); err != nil {
				t.Errorf("a third order after the first has ended: %v", err)
			}
		})
	}
}

// A replica that stopped between a failed statement and its ROLLBACK keeps the customers
// locked.
func TestIdleTransactionDoesNotKeepACustomerLocked(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 5})
	r := start(t, options{dsn: dsn, strategy: "etcd", maxUnpaid: 2})
	idle, err := open(t, dsn).SQL.BeginTx(t.Context(), &sql.TxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Rollback() }()
	if _, err := idle.ExecContext(t.Context(), order.TurnOf("ann")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.orders.Place(t.Context(), buy("ann", "k", 1)); err != nil {
		t.Error(err)
	}
	if err := idle.Commit(); err == nil {
		t.Error("the idle transaction still has its connection")
	}
}
