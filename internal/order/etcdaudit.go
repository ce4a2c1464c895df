package order

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
)

// NoGap is the invariant that a crash between etcd and MySQL breaks.
const NoGap = "what was taken in etcd was sold"

// AuditUnits is stock.Audit, and also compares MySQL with the stock in etcd. It is for
// a service at rest: an order that is being placed is in one store only.
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
	if errors.Is(err, stock.ErrUnknownSKU) {
		add(stock.Conservation, "etcd has no stock of this SKU; PUT the SKU again")
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	held, err := heldOrders(ctx, db, b.SKU)
	if err != nil {
		return nil, err
	}
	sum := int64(0)
	for _, n := range taken {
		sum += n
	}
	if inEtcd.Units != inEtcd.Available+sum {
		add(stock.Conservation, "etcd: %d units, but %d available + %d taken", inEtcd.Units, inEtcd.Available, sum)
	}
	if inEtcd.Units != b.Units {
		add(stock.Conservation, "%d units in etcd, but %d in MySQL", inEtcd.Units, b.Units)
	}
	if inEtcd.Available < 0 {
		add(stock.NonNegative, "etcd: %d available", inEtcd.Available)
	}
	for _, order := range slices.Sorted(maps.Keys(taken)) {
		if held[order] != taken[order] {
			add(NoGap, "order %s took %d in etcd, but has %d in MySQL", order, taken[order], held[order])
		}
		delete(held, order)
	}
	for _, order := range slices.Sorted(maps.Keys(held)) {
		add(NoGap, "order %s has %d in MySQL, but took none in etcd", order, held[order])
	}
	return found, nil
}

func heldOrders(ctx context.Context, db *stock.DB, sku string) (map[string]int64, error) {
	const query = "SELECT id, quantity FROM orders WHERE sku = ? AND status IN ('reserved', 'paid') " +
		"UNION ALL SELECT id, quantity FROM archived_orders WHERE sku = ? AND status = 'paid'"
	orders, err := stock.Query(ctx, db.SQL, func(o *Order) []any { return []any{&o.ID, &o.Quantity} }, query, []byte(sku), []byte(sku))
	if err != nil {
		return nil, fmt.Errorf("read the orders of %s: %w", sku, err)
	}
	held := make(map[string]int64, len(orders))
	for _, o := range orders {
		held[o.ID.String()] = int64(o.Quantity)
	}
	return held, nil
}
