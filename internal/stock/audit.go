package stock

import (
	"context"
	"database/sql"
	"fmt"
)

// Report is the audit of a database: the balance of each SKU, and all violations of
// invariants.
type Report struct {
	OK         bool        `json:"ok"`
	SKUs       []Balance   `json:"skus"`
	Violations []Violation `json:"violations"`
}

// Balance is the sum of one SKU's orders by status, in units.
type Balance struct {
	SKU       string `json:"sku"`
	Units     int64  `json:"units"`
	Available int64  `json:"available"`
	Reserved  int64  `json:"reserved"`
	Paid      int64  `json:"paid"`
	Returned  int64  `json:"returned"` // the units of cancelled and expired orders
	Oversold  int64  `json:"oversold"` // the units sold beyond those that were put on sale
	OK        bool   `json:"ok"`
}

// Violation is one broken invariant.
type Violation struct {
	SKU       string `json:"sku"`
	Invariant string `json:"invariant"`
	Detail    string `json:"detail"`
}

// The invariants that can be checked with the database alone.
const (
	Conservation     = "conservation" // units = available + reserved + paid
	NonNegative      = "available >= 0"
	KnownSKU         = "every order's SKU exists"
	OneOrderAKey     = "one order for each idempotency key of a customer"
	WithinLimit      = "no customer holds more than the limit"
	TokensRise       = "fencing tokens never decrease"
	SeqCovers        = "seq counts every write"
	PositiveAmount   = "quantity > 0"
	EndsOnce         = "every order has one final status"
	PaidInTime       = "orders are paid before their window ends, and expire after it"
	RestocksCount    = "restocked units are on sale"
	ArchiveFinal     = "archived orders are final, and not in orders"
	OneOrderAPayment = "one order for each payment reference"
)

// Audit reads the whole database in one snapshot and checks it. Violations are in the
// report; an error means that the database could not be read. It reads every order,
// which takes seconds for a million of them.
func Audit(ctx context.Context, db *DB) (Report, error) {
	tx, err := db.SQL.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	defer func() { _ = tx.Rollback() }()

	report := Report{SKUs: []Balance{}, Violations: []Violation{}}
	if err := report.balances(ctx, tx); err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	for _, check := range checks {
		if err := report.find(ctx, tx, check); err != nil {
			return Report{}, err
		}
	}
	broken := map[string]bool{}
	for _, v := range report.Violations {
		broken[v.SKU] = true
	}
	for i := range report.SKUs {
		report.SKUs[i].OK = !broken[report.SKUs[i].SKU]
	}
	report.OK = len(report.Violations) == 0
	return report, nil
}

const balanceQuery = `SELECT s.sku, s.units, s.available,
	COALESCE(o.reserved, 0), COALESCE(o.paid, 0), COALESCE(o.returned, 0)
	FROM stock s LEFT JOIN (
		SELECT sku,
			SUM(CASE WHEN status = 'reserved' THEN quantity ELSE 0 END) AS reserved,
			SUM(CASE WHEN status = 'paid' THEN quantity ELSE 0 END) AS paid,
			SUM(CASE WHEN status IN ('cancelled', 'expired') THEN quantity ELSE 0 END) AS returned
		FROM (SELECT sku, status, quantity FROM orders
			UNION ALL SELECT sku, status, quantity FROM archived_orders) every_order GROUP BY sku
	) o ON o.sku = s.sku ORDER BY s.sku`

func (r *Report) balances(ctx context.Context, tx *sql.Tx) error {
	balances, err := Query(ctx, tx, func(b *Balance) []any {
		return []any{&b.SKU, &b.Units, &b.Available, &b.Reserved, &b.Paid, &b.Returned}
	}, balanceQuery)
	for _, b := range balances {
		sold := b.Reserved + b.Paid
		b.Oversold = max(0, sold-b.Units)
		if b.Units != b.Available+sold {
			r.add(b.SKU, Conservation, fmt.Sprintf("%d units, but %d available + %d reserved + %d paid", b.Units, b.Available, b.Reserved, b.Paid))
		}
		if b.Available < 0 {
			r.add(b.SKU, NonNegative, fmt.Sprintf("%d available", b.Available))
		}
		r.SKUs = append(r.SKUs, b)
	}
	return err
}

// maxViolations bounds what one check reports.
const maxViolations = 100

// check is a query that returns a row (sku, detail) for each violation.
type check struct{ invariant, query string }

// checks are all checks but the balances'.
var checks = []check{
	{KnownSKU, `SELECT o.sku, CONCAT('the SKU of order ', LOWER(HEX(o.id)), ' does not exist')
		FROM orders o LEFT JOIN stock s ON s.sku = o.sku WHERE s.sku IS NULL`},
	{PositiveAmount, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' has quantity ', quantity)
		FROM orders WHERE quantity <= 0`},
	// Possible only if the unique index was dropped.
	{OneOrderAKey, `SELECT MIN(sku), CONCAT(COUNT(*), ' orders for key ', idempotency_key, ' of customer ', customer)
		FROM orders GROUP BY customer, idempotency_key HAVING COUNT(*) > 1`},
	// What a customer held when each order was made, against the limit at that time.
	// Orders whose units were returned do not count.
	{WithinLimit, `SELECT sku, CONCAT('customer ', customer, ' holds ', held, ', the limit was ', per_customer_limit)
		FROM (SELECT sku, customer, per_customer_limit,
				SUM(quantity) OVER (PARTITION BY sku, customer ORDER BY seq, id) AS held
			FROM orders WHERE status IN ('reserved', 'paid')) o
		WHERE held > per_customer_limit`},
	// Only orders since the last binding: an adopted token source starts from zero.
	{TokensRise, `SELECT sku, CONCAT('token ', fence, ' at seq ', seq, ' after token ', before_it)
		FROM (SELECT sku, fence, seq, LAG(fence) OVER (PARTITION BY sku ORDER BY seq, id) AS before_it
			FROM orders WHERE created_at >= COALESCE((SELECT MAX(since) FROM guard), created_at)) o
		WHERE fence < before_it`},
	{TokensRise, `SELECT s.sku, CONCAT('the fence is ', s.fence, ', an order was admitted with ', MAX(o.fence))
		FROM stock s JOIN orders o ON o.sku = s.sku
		WHERE o.created_at >= COALESCE((SELECT MAX(since) FROM guard), o.created_at)
		GROUP BY s.sku, s.fence HAVING MAX(o.fence) > s.fence`},
	{SeqCovers, `SELECT s.sku, CONCAT('seq is ', s.seq, ', an order was written at ', MAX(o.seq))
		FROM stock s JOIN orders o ON o.sku = s.sku GROUP BY s.sku, s.seq HAVING MAX(o.seq) > s.seq`},
	// A write that returns units records its name in the order.
	{EndsOnce, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' is ', status, ', closed ', COALESCE(closed_at, 'never'),
		', returned by ', COALESCE(LOWER(HEX(returned_by)), 'none'), ', paid by ', COALESCE(payment_reference, 'none'))
		FROM ` + allOrders + ` WHERE (status = 'reserved') <> (closed_at IS NULL)
			OR (status IN ('cancelled', 'expired')) <> (returned_by IS NOT NULL)
			OR status <> 'paid' AND payment_reference IS NOT NULL`},
	{PaidInTime, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' was ', status, ' at ', closed_at, ', its window ended at ', expires_at)
		FROM ` + allOrders + ` WHERE status = 'paid' AND closed_at >= expires_at OR status = 'expired' AND closed_at < expires_at`},
	{RestocksCount, `SELECT r.sku, CONCAT(SUM(r.units), ' units were added, of ', COALESCE(MAX(s.units), 'no'), '; the last at seq ', MAX(r.seq), ' of ',
			COALESCE(MAX(s.seq), 'none'))
		FROM restocks r LEFT JOIN stock s ON s.sku = r.sku
		GROUP BY r.sku HAVING COALESCE(MAX(s.units), -1) < SUM(r.units) OR MAX(r.seq) > COALESCE(MAX(s.seq), 0)`},
	{ArchiveFinal, `SELECT a.sku, CONCAT('order ', LOWER(HEX(a.id)), ' was archived ', a.status, IF(o.id IS NULL, '', ', and is still in orders'))
		FROM archived_orders a LEFT JOIN orders o ON o.id = a.id WHERE a.status = 'reserved' OR o.id IS NOT NULL`},
	// The table payments makes a second order impossible, so each reference must be in it.
	{OneOrderAPayment, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' was paid by ', payment_reference,
			IF(orders > 1, ', which paid another order, too', ', which may pay another order: it is missing in payments'))
		FROM (SELECT id, sku, payment_reference, COUNT(*) OVER (PARTITION BY payment_reference) AS orders
			FROM ` + allOrders + ` WHERE status = 'paid' AND payment_reference IS NOT NULL) paid
		WHERE orders > 1 OR NOT EXISTS (SELECT 1 FROM payments p WHERE p.reference = paid.payment_reference AND p.order_id = paid.id)`},
	// A late payment takes its reference, too. Its order may not exist.
	{OneOrderAPayment, `SELECT COALESCE((SELECT sku FROM orders WHERE id = l.order_id), (SELECT sku FROM archived_orders WHERE id = l.order_id), ''),
			CONCAT('the late payment ', l.reference, ' of order ', LOWER(HEX(l.order_id)),
			IF(p.reference IS NULL, ' may pay another order: it is missing in payments', CONCAT(' is a payment of order ', LOWER(HEX(p.order_id)))))
		FROM late_payments l LEFT JOIN payments p ON p.reference = l.reference WHERE p.reference IS NULL OR p.order_id <> l.order_id`},
}

// allOrders includes those that were purged.
const allOrders = `(SELECT id, sku, status, expires_at, closed_at, payment_reference, returned_by FROM orders
	UNION ALL SELECT id, sku, status, expires_at, closed_at, payment_reference, returned_by FROM archived_orders) o`

func (r *Report) find(ctx context.Context, tx *sql.Tx, c check) error {
	found, err := Query(ctx, tx, func(v *Violation) []any {
		v.Invariant = c.invariant
		return []any{&v.SKU, &v.Detail}
	}, c.query+" LIMIT ?", maxViolations)
	r.Violations = append(r.Violations, found...)
	return wrap(fmt.Sprintf("audit %q", c.invariant), err)
}

func (r *Report) add(sku, invariant, detail string) {
	r.Violations = append(r.Violations, Violation{SKU: sku, Invariant: invariant, Detail: detail})
}
