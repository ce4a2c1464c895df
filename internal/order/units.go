package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
)

// This file is the stock that is kept in etcd, for EtcdCompareAndSwap. It decides
// who gets units; MySQL has the orders, and a copy of the stock that follows them
// in the same transaction, for whoever reads. No transaction spans both: a crash
// in between leaves units that were taken and sold to nobody (see etcdstock).

// NoGap is the invariant that a crash between the two stores breaks.
const NoGap = "what was taken in etcd was sold"

// takeUnits takes an order's units, before it is written. Those whose taking has
// no answer are taken back behind the caller: its time is over.
func (d *direct) takeUnits(ctx context.Context, sku string, id ID, n int32) error {
	leave, err := d.lines.enter(ctx, sku)
	if err != nil {
		return err
	}
	left, err := d.cfg.Units.Take(ctx, sku, id.String(), int64(n))
	if err != nil && !errors.Is(err, etcdstock.ErrInsufficient) && !errors.Is(err, etcdstock.ErrContended) {
		// With its place in the line: while etcd is away, no more orders come to this.
		d.startReturn(ctx, sku, id, leave)
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	leave()
	switch {
	case errors.Is(err, etcdstock.ErrInsufficient):
		return short(left.Available)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, err) // nothing was changed
	}
	return nil
}

const (
	// returnTimeout bounds each try to give units back, and all of them from the
	// moment at which the replica begins to end.
	returnTimeout = 10 * time.Second
	// returnPause is the wait after a try that failed.
	returnPause = 100 * time.Millisecond
)

// startReturn waits for returnUnits while the order has time left, and no longer:
// close waits for the rest. Behind it, then is called.
func (d *direct) startReturn(ctx context.Context, sku string, id ID, then func()) {
	done := make(chan struct{})
	d.returning.Go(func() {
		defer close(done)
		defer then()
		d.returnUnits(ctx, sku, id)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// returnUnits gives back what an order has taken that was certainly not written. It
// tries until it succeeds, however many others change the SKU, since nobody else does
// it. A replica that ends gives up after returnTimeout, and the audit finds the gap.
func (d *direct) returnUnits(ctx context.Context, sku string, id ID) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(d.closing, func() { time.AfterFunc(returnTimeout, cancel) })()
	for {
		attempt, done := context.WithTimeout(ctx, returnTimeout)
		err := d.giveBackUnits(attempt, sku, id)
		done()
		if err == nil || errors.Is(err, etcdstock.ErrNotTaken) {
			return
		}
		if sleep.For(ctx, returnPause) != nil {
			d.cfg.Logger.WarnContext(ctx, "units were taken in etcd and not sold", "sku", sku, "order", id.String(), "error", err)
			return
		}
	}
}

// giveBackUnits does so one order after the other: they would only be each other's
// rivals.
func (d *direct) giveBackUnits(ctx context.Context, sku string, id ID) error {
	leave, err := d.returns.enter(ctx, sku)
	if err != nil {
		return err
	}
	defer leave()
	_, err = d.cfg.Units.GiveBack(ctx, sku, id.String())
	return err
}

// refusedUnits is what MySQL already says against an order, before it takes units:
// those that it took in vain would be somebody else's refusal meanwhile.
func (d *direct) refusedUnits(ctx context.Context, r *Request) error {
	row, err := stock.Claim{SKU: r.SKU, Fence: strategy.FenceOff}.Begin(ctx, d.cfg.DB)
	if err != nil {
		return err
	}
	if err := onSale(&row, row.Now, r); err != nil || row.PerCustomerLimit == nil {
		return err
	}
	return d.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error { return withinLimit(ctx, conn, &row, r) })
}

// putUnits puts a SKU's units into etcd that are not there yet: those of a new
// one, or of one whose creator died in between. It never puts back what was sold.
func (cfg *Config) putUnits(ctx context.Context, s stock.Stock) error {
	if cfg.Units == nil || s.Available != s.Units {
		return nil
	}
	if _, err := cfg.Units.Create(ctx, s.SKU, s.Units); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return nil
}

// returnEnded gives back in etcd, too, what those of the orders have taken that
// have expired or were cancelled.
func (cfg *Config) returnEnded(ctx context.Context, sku string, ids []ID) error {
	if cfg.Units == nil || len(ids) == 0 {
		return nil
	}
	ended, err := findEnded(ctx, cfg.DB, ids)
	if err != nil {
		return err
	}
	for _, id := range ended {
		if err := cfg.unitsReturn(ctx, sku, id); err != nil {
			return err
		}
	}
	return nil
}

// mendUnits gives back in etcd what orders still have there whose units MySQL has
// taken back: their replica died in between.
func (cfg *Config) mendUnits(ctx context.Context) error {
	if cfg.Units == nil {
		return nil
	}
	all, err := cfg.Units.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		_, taken, err := cfg.Units.Taken(ctx, s.SKU)
		if err != nil {
			return err
		}
		var ids []ID
		for name := range taken {
			if id, err := uuid.Parse(name); err == nil { // not ours, if it is none
				ids = append(ids, id)
			}
		}
		for some := range slices.Chunk(ids, expiryBatch) {
			if err := cfg.returnEnded(ctx, s.SKU, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// AuditUnits is stock.Audit, and compares MySQL with the stock in etcd. It is for
// a service at rest: an order on its way is in one store and not yet in the other.
func AuditUnits(ctx context.Context, db *stock.DB, units *etcdstock.Store) (stock.Report, error) {
	report, err := stock.Audit(ctx, db)
	if err != nil {
		return report, err
	}
	for i := range report.SKUs {
		b := &report.SKUs[i]
		found, err := compareUnits(ctx, db, units, b)
		if err != nil {
			return report, fmt.Errorf("audit %s: %w", b.SKU, err)
		}
		if len(found) > 0 {
			b.OK, report.OK = false, false
			report.Violations = append(report.Violations, found...)
		}
	}
	return report, nil
}

func compareUnits(ctx context.Context, db *stock.DB, units *etcdstock.Store, b *stock.Balance) (found []stock.Violation, err error) {
	add := func(invariant, format string, args ...any) {
		found = append(found, stock.Violation{SKU: b.SKU, Invariant: invariant, Detail: fmt.Sprintf(format, args...)})
	}
	inEtcd, taken, err := units.Taken(ctx, b.SKU)
	if errors.Is(err, etcdstock.ErrUnknownSKU) {
		add(stock.Conservation, "etcd has no stock of it; PUT the SKU again")
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	held, err := heldOrders(ctx, db, b.SKU)
	if err != nil {
		return nil, err
	}
	if sum := sumOf(taken); inEtcd.Units != inEtcd.Available+sum {
		add(stock.Conservation, "etcd: %d units, but %d available + %d taken", inEtcd.Units, inEtcd.Available, sum)
	}
	if inEtcd.Units != b.Units {
		add(stock.Conservation, "etcd: %d units, and %d in MySQL", inEtcd.Units, b.Units)
	}
	if inEtcd.Available < 0 {
		add(stock.NonNegative, "etcd: %d available", inEtcd.Available)
	}
	for _, order := range slices.Sorted(maps.Keys(taken)) {
		if held[order] != taken[order] {
			add(NoGap, "order %s took %d in etcd, and has %d in MySQL", order, taken[order], held[order])
		}
		delete(held, order)
	}
	for _, order := range slices.Sorted(maps.Keys(held)) {
		add(NoGap, "order %s has %d in MySQL, and took none in etcd", order, held[order])
	}
	return found, nil
}

func sumOf(taken map[string]int64) (sum int64) {
	for _, n := range taken {
		sum += n
	}
	return sum
}

// heldOrders are the units of each order of a SKU that is reserved or paid.
func heldOrders(ctx context.Context, db *stock.DB, sku string) (map[string]int64, error) {
	rows, err := db.SQL.QueryContext(ctx, heldOrdersQuery, []byte(sku), []byte(sku))
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	defer rows.Close()
	held := map[string]int64{}
	for rows.Next() {
		var id sql.RawBytes
		var n int64
		if err := rows.Scan(&id, &n); err != nil {
			return nil, err
		}
		order, err := uuid.FromBytes(id)
		if err != nil {
			return nil, err
		}
		held[order.String()] = n
	}
	return held, rows.Err()
}
