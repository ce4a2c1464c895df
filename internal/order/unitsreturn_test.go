package order_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Customers retry orders above their limit at three replicas at once. The refusals must not
// lose any units.
func TestRefusalsLoseNoUnits(t *testing.T) {
	t.Parallel()
	const units, customers, each, clients = 100, 50, 20, 60
	dsn := newDSN(t, stock.Stock{Units: units, PerCustomerLimit: new(int32(1))})
	var replicas [3]*order.Service
	a, inEtcd1 := inEtcd(t, dsn, nil)
	replicas[0] = a
	replicas[1], _ = inEtcd(t, dsn, nil)
	replicas[2], _ = inEtcd(t, dsn, nil)
	change(t, a, stock.Stock{PerCustomerLimit: new(int32(1))}) // puts its units into etcd
	var made atomic.Int32
	buyAll := func(name string, customers, each int) {
		var group errgroup.Group
		group.SetLimit(clients)
		for i := range customers * each {
			group.Go(func() error {
				for {
					placed, err := replicas[i%3].Place(t.Context(), buy(fmt.Sprint(name, i%customers), fmt.Sprint(name, i), 1))
					switch {
					case errors.Is(err, order.ErrUnavailable):
						continue // retry with the same key
					case err == nil && !placed.Replayed:
						made.Add(1)
					case err != nil && !errors.Is(err, order.ErrSoldOut) && !errors.Is(err, order.ErrCustomerLimit):
						return err
					}
					return nil
				}
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	buyAll("first", customers, each)
	for _, r := range replicas {
		if err := r.Close(t.Context()); err != nil { // waits until all units are given back
			t.Error(err)
		}
	}
	for i := range replicas {
		replicas[i], _ = inEtcd(t, dsn, nil)
	}
	buyAll("second", units-customers, 1)
	if report := auditBoth(t, dsn, inEtcd1); made.Load() != units || !report.OK {
		t.Errorf("%d orders were made of %d units; %+v", made.Load(), units, report)
	}
}
