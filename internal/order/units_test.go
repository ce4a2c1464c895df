package order_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
)

// inEtcd starts a replica with its stock in etcd.
func inEtcd(t *testing.T, dsn string, at func(order.Step)) (*order.Service, *etcdstock.Store) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: servers.EtcdEndpoints(), DialTimeout: testTimeout, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	db := open(t, dsn)
	units := &etcdstock.Store{Client: client, Prefix: "flashsale/" + db.Name + "/units/"}
	row, err := strategy.Find("etcd-cas")
	if err != nil {
		t.Fatal(err)
	}
	return order.New(order.Config{DB: db, Strategy: row, Fence: strategy.FenceOff, Units: units, PaymentWindow: time.Minute,
		RequestTimeout: testTimeout, At: at, Logger: slog.New(slog.DiscardHandler)}), units
}

func auditBoth(t *testing.T, dsn string, units *etcdstock.Store) stock.Report {
	t.Helper()
	report, err := order.AuditUnits(t.Context(), open(t, dsn), units)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestStockInEtcdIsExact(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 12, PerCustomerLimit: new(int32(2))})
	a, units := inEtcd(t, dsn, nil)
	b, _ := inEtcd(t, dsn, nil)
	change(t, a, stock.Stock{PerCustomerLimit: new(int32(2))}) // puts its units into etcd
	var made atomic.Int32
	var group errgroup.Group
	for i := range 40 {
		group.Go(func() error {
			placed, err := []*order.Service{a, b}[i%2].Place(t.Context(), buy(fmt.Sprint("customer-", i%10), fmt.Sprint(i%30), 1))
			switch {
			case err == nil && !placed.Replayed:
				made.Add(1)
			case err != nil && !errors.Is(err, order.ErrSoldOut) && !errors.Is(err, order.ErrCustomerLimit):
				return err
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	// Units that an order took and gave back because of the limit may have caused another
	// refusal. They are available to the next order.
	for i := 0; ; i++ {
		_, err := b.Place(t.Context(), buy(fmt.Sprint("late-", i), "k", 1))
		if errors.Is(err, order.ErrSoldOut) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		made.Add(1)
	}
	report := auditBoth(t, dsn, units)
	if made.Load() != 12 || !report.OK || report.SKUs[0].Reserved != 12 {
		t.Errorf("%d orders, %+v", made.Load(), report)
	}
}

// The audit finds what a crash between the two stores leaves.
func TestAuditFindsTheGapBetweenTheStores(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t, stock.Stock{Units: 3})
	reached, gone := make(chan struct{}), make(chan struct{})
	a, units := inEtcd(t, dsn, func(s order.Step) {
		if s == order.BeforeWrite {
			close(reached)
			<-gone
		}
	})
	change(t, a, stock.Stock{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := a.Place(ctx, buy("ann", "k", 2))
		ended <- err
	}()
	sandboxtest.Await(t, reached, "the step") // where a process would have died
	report := auditBoth(t, dsn, units)
	if report.OK || len(report.Violations) != 1 || report.Violations[0].Invariant != order.NoGap {
		t.Errorf("the audit found %+v, want the gap", report.Violations)
	}
	cancel()
	close(gone)
	if err := <-ended; !errors.Is(err, order.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, order.ErrUnavailable)
	}
	// A live replica gives back what it could not sell before it shuts down.
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if report := auditBoth(t, dsn, units); !report.OK {
		t.Errorf("the audit found %+v", report.Violations)
	}
}

// The caller does not wait for units that cannot be given back.
func TestOrderIsAnsweredInTimeWithoutEtcd(t *testing.T) {
	t.Parallel()
	const timeout = 500 * time.Millisecond
	const atMost = 7 * time.Second // giving back continues for ten
	dsn := newDSN(t, stock.Stock{Units: 10})
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	units := &etcdstock.Store{Client: client, Prefix: "flashsale/nowhere/"}
	row, err := strategy.Find("etcd-cas")
	if err != nil {
		t.Fatal(err)
	}
	service := order.New(order.Config{DB: open(t, dsn), Strategy: row, Fence: strategy.FenceOff, Units: units, PaymentWindow: time.Minute,
		RequestTimeout: timeout, Logger: slog.New(slog.DiscardHandler)})
	began := time.Now()
	if _, err := service.Place(t.Context(), buy("ann", "k", 1)); !errors.Is(err, order.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, order.ErrUnavailable)
	}
	if took := time.Since(began); took > atMost {
		t.Errorf("answered after %s, the request timeout is %s", took, timeout)
	}
	if err := client.Close(); err != nil { // stops giving back
		t.Error(err)
	}
	if err := service.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
