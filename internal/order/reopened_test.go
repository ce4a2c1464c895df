package order_test

import (
	"context"
	"errors"
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// slowMirror is a mirror in which units that came back are shown when the test
// says so.
type slowMirror struct {
	listener
	asked chan uint64 // the seq that is to be shown
	show  chan error
}

func (m *slowMirror) Shown(ctx context.Context, _ string, seq uint64) error {
	m.asked <- seq
	select {
	case err := <-m.show:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Another replica may refuse by what was before units came back. An order that
// has them must not be answered there as sold out when it comes again.
func TestUnitsThatCameBackAreShownBeforeTheyAreSold(t *testing.T) {
	t.Parallel()
	for name, comesBack := range map[string]func(t *testing.T, at *order.Service, sold order.Order) error{
		"cancelled": func(t *testing.T, at *order.Service, sold order.Order) error {
			_, err := at.Cancel(t.Context(), sold.Customer, sold.ID)
			return err
		},
		"restocked": func(t *testing.T, at *order.Service, _ order.Order) error {
			_, err := at.Restock(t.Context(), order.RestockRequest{SKU: testSKU, Key: "r", Units: 1})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := newDSN(t, stock.Stock{Units: 1})
			mirror := &slowMirror{asked: make(chan uint64, 8), show: make(chan error, 8)}
			at := startReplica(t, options{dsn: dsn, strategy: "etcd", mirror: mirror})
			sold, err := at.Place(t.Context(), buy("ann", "k", 1))
			if err != nil {
				t.Fatal(err)
			}
			if len(mirror.asked) > 0 {
				t.Error("the first units wait to be shown")
			}
			if err := comesBack(t, at, sold.Order); err != nil {
				t.Fatal(err)
			}
			db := open(t, dsn)
			row, err := db.Get(t.Context(), testSKU)
			if err != nil || row.Available != 1 || row.Reopened == 0 || row.Reopened > row.Seq {
				t.Fatalf("got %+v, %v; want the unit, and the seq of its return", row, err)
			}

			answered := make(chan error, 1)
			go func() { _, err := at.Place(t.Context(), buy("ben", "k", 1)); answered <- err }()
			if seq := <-mirror.asked; seq != row.Reopened {
				t.Errorf("seq %d is to be shown, want %d", seq, row.Reopened)
			}
			mirror.show <- errors.New("etcd does not answer")
			if err := <-answered; !errors.Is(err, order.ErrUnavailable) {
				t.Errorf("got %v, want that it is unavailable", err)
			}
			if row, err = db.Get(t.Context(), testSKU); err != nil || row.Available != 1 {
				t.Errorf("got %+v, %v; want the unit unsold", row, err)
			}

			go func() { _, err := at.Place(t.Context(), buy("ben", "k", 1)); answered <- err }()
			<-mirror.asked
			select {
			case err := <-answered:
				t.Errorf("answered %v before it was shown", err)
			default:
			}
			if row, err = db.Get(t.Context(), testSKU); err != nil || row.Available != 1 {
				t.Errorf("got %+v, %v; want the unit unsold", row, err)
			}
			mirror.show <- nil
			if err := <-answered; err != nil {
				t.Error(err)
			}
			audit(t, dsn)
		})
	}
}
