package stock

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
)

// Report is the audit of a database: for each SKU its arithmetic, and every
// violation of an invariant that was found.
type Report struct {
	OK         bool        `json:"ok"`
	SKUs       []Balance   `json:"skus"`
	Violations []Violation `json:"violations"`
}

// Balance is one SKU's arithmetic, in units.
type Balance struct {
	SKU       string `json:"sku"`
	Units     int64  `json:"units"`
	Available int64  `json:"available"`
	Reserved  int64  `json:"reserved"`
	Paid      int64  `json:"paid"`
	// Returned are the units of cancelled and expired orders.
	Returned int64 `json:"returned"`
	// Oversold are the units sold beyond those that were put on sale.
	Oversold int64 `json:"oversold"`
	OK       bool  `json:"ok"`
}

// Violation is one broken invariant.
type Violation struct {
	SKU       string `json:"sku"`
	Invariant string `json:"invariant"`
	Detail    string `json:"detail"`
}

// The invariants that the database alone can show to be broken.
const (
	Conservation   = "conservation"      // units = available + reserved + paid
	NonNegative    = "available >= 0"    //
	KnownSKU       = "order has its SKU" //
	OneOrderAKey   = "one order for one idempotency key of a customer"
	WithinLimit    = "nobody holds more than the limit"
	TokensRise     = "fencing tokens never fall"
	SeqCovers      = "seq counts every write"
	PositiveAmount = "quantity > 0"
	EndsOnce       = "an order comes to one end"
	PaidInTime     = "an order is paid within its window, and expires after it"
	RestocksCount  = "restocked units are on sale"
	ArchiveFinal   = "the archive has final orders, and each once"
)

// Audit reads the whole database in one snapshot and checks it. Found
// violations are in the report; the error says only that it could not be read.
//
// It reads every order: seconds for a million of them.
func Audit(ctx context.Context, db *DB) (Report, error) {
	// One snapshot for all queries: a sale may be running.
	tx, err := db.SQL.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	// Nothing was written: there is nothing to commit, nor to report.
	defer func() { _ = tx.Rollback() }()

	report := Report{SKUs: []Balance{}, Violations: []Violation{}}
	if err := report.balances(ctx, tx); err != nil {
		return Report{}, fmt.Errorf("audit: %w", err)
	}
	for _, check := range slices.Concat(orderChecks, lifeChecks) {
		if err := report.find(ctx, tx, check.invariant, check.query); err != nil {
			return Report{}, fmt.Errorf("audit %q: %w", check.invariant, err)
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
	rows, err := tx.QueryContext(ctx, balanceQuery)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var b Balance
		if err := rows.Scan(&b.SKU, &b.Units, &b.Available, &b.Reserved, &b.Paid, &b.Returned); err != nil {
			return err
		}
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
	return rows.Err()
}

// maxViolations bounds what one check reports: a broken database shows in the
// first hundred as well as in a million.
const maxViolations = 100

// check is a query that returns a row (sku, detail) for each violation.
type check struct{ invariant, query string }

// orderChecks are those of orders as they were made.
var orderChecks = []check{
	{KnownSKU, `SELECT o.sku, CONCAT('order ', LOWER(HEX(o.id)), ' is of no SKU')
		FROM orders o LEFT JOIN stock s ON s.sku = o.sku WHERE s.sku IS NULL`},
	{PositiveAmount, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' has quantity ', quantity)
		FROM orders WHERE quantity <= 0`},
	// The unique index rules it out, as long as it stands.
	{OneOrderAKey, `SELECT MIN(sku), CONCAT(COUNT(*), ' orders for key ', idempotency_key, ' of customer ', customer)
		FROM orders GROUP BY customer, idempotency_key HAVING COUNT(*) > 1`},
	// What a customer held when each order was made, against the limit that
	// stood then; orders that have been returned since count for nothing.
	{WithinLimit, `SELECT sku, CONCAT('customer ', customer, ' holds ', held, ', the limit was ', per_customer_limit)
		FROM (SELECT sku, customer, per_customer_limit,
				SUM(quantity) OVER (PARTITION BY sku, customer ORDER BY seq, id) AS held
			FROM orders WHERE status IN ('reserved', 'paid')) o
		WHERE held > per_customer_limit`},
	// Only since the guard was made: an adopted token source starts anew.
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
}

// endedOrders are those that were purged, too.
const endedOrders = `(SELECT id, sku, status, expires_at, closed_at, payment_reference, returned_by FROM orders
	UNION ALL SELECT id, sku, status, expires_at, closed_at, payment_reference, returned_by FROM archived_orders) o`

// lifeChecks are those of what becomes of orders and SKUs after they were made.
var lifeChecks = []check{
	// Whatever gives units back leaves its name in the same write.
	{EndsOnce, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' is ', status, ', closed ', COALESCE(closed_at, 'never'),
		', returned by ', COALESCE(LOWER(HEX(returned_by)), 'none'), ', paid by ', COALESCE(payment_reference, 'none'))
		FROM ` + endedOrders + ` WHERE (status = 'reserved') <> (closed_at IS NULL)
			OR (status IN ('cancelled', 'expired')) <> (returned_by IS NOT NULL)
			OR status <> 'paid' AND payment_reference IS NOT NULL`},
	{PaidInTime, `SELECT sku, CONCAT('order ', LOWER(HEX(id)), ' was ', status, ' at ', closed_at, ', its window ended at ', expires_at)
		FROM ` + endedOrders + ` WHERE status = 'paid' AND closed_at >= expires_at OR status = 'expired' AND closed_at < expires_at`},
	{RestocksCount, `SELECT r.sku, CONCAT(SUM(r.units), ' units were added, of ', COALESCE(MAX(s.units), 'no'), '; the last at seq ', MAX(r.seq), ' of ',
			COALESCE(MAX(s.seq), 'none'))
		FROM restocks r LEFT JOIN stock s ON s.sku = r.sku
		GROUP BY r.sku HAVING COALESCE(MAX(s.units), -1) < SUM(r.units) OR MAX(r.seq) > COALESCE(MAX(s.seq), 0)`},
	{ArchiveFinal, `SELECT a.sku, CONCAT('order ', LOWER(HEX(a.id)), ' was archived ', a.status, IF(o.id IS NULL, '', ', and is still there'))
		FROM archived_orders a LEFT JOIN orders o ON o.id = a.id WHERE a.status = 'reserved' OR o.id IS NOT NULL`},
}

func (r *Report) find(ctx context.Context, tx *sql.Tx, invariant, query string) error {
	rows, err := tx.QueryContext(ctx, query+" LIMIT ?", maxViolations)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var sku, detail string
		if err := rows.Scan(&sku, &detail); err != nil {
			return err
		}
		r.add(sku, invariant, detail)
	}
	return rows.Err()
}

func (r *Report) add(sku, invariant, detail string) {
	r.Violations = append(r.Violations, Violation{SKU: sku, Invariant: invariant, Detail: detail})
}
