// Package stock keeps the units of each SKU in MySQL: the tables, the ways to write
// stock, and the audit. It guarantees the effect of one statement or transaction;
// the strategy decides which way is correct on several replicas. Package order
// writes orders, in transactions that begin here.
package stock

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"gorm.io/gorm"
)

var (
	// ErrUnknownSKU means that the SKU has no row.
	ErrUnknownSKU = errors.New("unknown SKU")
	// ErrShort means that fewer units are available than requested.
	ErrShort = errors.New("too few units available")
	// ErrFenced means that a newer fencing token was admitted, or that the row has
	// changed since it was read: nothing was written.
	ErrFenced = errors.New("a newer writer was admitted")
	// ErrTooManyUnits means that a SKU would have more than MaxUnits.
	ErrTooManyUnits = errors.New("the SKU would have too many units")
	// ErrContended means that each compare-and-swap failed: nothing was written.
	ErrContended = errors.New("too many concurrent writers of this SKU")
)

// MaxUnits is the most units that a SKU can have, over all restocks: the largest
// integer that every JSON parser reads exactly.
const MaxUnits = 1<<53 - 1

// Stock is the row of one SKU. Prices are in the currency's cents, times in UTC. Its
// JSON is what the mirror keeps in etcd.
type Stock struct {
	SKU        string `json:"sku" gorm:"primaryKey"`
	Name       string `json:"name"`
	PriceCents int64  `json:"price_cents"`
	Currency   string `json:"currency"`
	// Units were put on sale; Available of them are left.
	Units            int64      `json:"units"`
	Available        int64      `json:"available"`
	PerCustomerLimit *int32     `json:"per_customer_limit,omitempty"`
	HoldPolicy       HoldPolicy `json:"hold_policy,omitempty"`  // empty is Lenient
	VisibleFrom      *time.Time `json:"visible_from,omitempty"` // not listed before
	SaleStartsAt     *time.Time `json:"sale_starts_at,omitempty"`
	SaleEndsAt       *time.Time `json:"sale_ends_at,omitempty"`
	WithdrawnAt      *time.Time `json:"withdrawn_at,omitempty"` // off the list and off sale since
	Fence            uint64     `json:"-"`                      // the highest fencing token admitted
	Seq              uint64     `json:"seq"`                    // grows by one with each write
	Revision         uint64     `json:"revision"`               // grows with each change by an administrator, and not with sales
	CreatedAt        time.Time  `json:"-" gorm:"autoCreateTime:false"`
	UpdatedAt        time.Time  `json:"-" gorm:"autoUpdateTime:false"`
}

// HoldPolicy says which orders count against a SKU's limit for each customer.
type HoldPolicy string

// The policies. With Lenient, reserved and paid orders count. With Strict, cancelled orders
// also count until their payment window would have ended, so that nobody can hold units for
// longer by cancelling and ordering again.
const (
	Lenient HoldPolicy = "lenient"
	Strict  HoldPolicy = "strict"
)

// TableName tells gorm that the table is called stock, not stocks.
func (Stock) TableName() string { return "stock" }

// Row is a Stock as it was read at Now by the database's clock.
type Row struct {
	Stock
	Now time.Time
}

// Listed reports whether customers may see the SKU at t: it is announced and not
// withdrawn. An order for a SKU that is not listed is refused like one for an unknown SKU.
func (s *Stock) Listed(t time.Time) bool {
	return s.WithdrawnAt == nil && (s.VisibleFrom == nil || !t.Before(*s.VisibleFrom))
}

// Open reports whether the sale is open at t: 0 if it is, -1 before it, 1 after it.
func (s *Stock) Open(t time.Time) int {
	switch {
	case s.SaleStartsAt != nil && t.Before(*s.SaleStartsAt):
		return -1
	case s.SaleEndsAt != nil && !t.Before(*s.SaleEndsAt):
		return 1
	}
	return 0
}

// Create puts a new SKU on sale. It reports false, and changes nothing, if the SKU
// exists.
func (db *DB) Create(ctx context.Context, want Stock) (created bool, err error) {
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, `INSERT INTO stock
			(sku, name, price_cents, currency, units, available, per_customer_limit, hold_policy,
			visible_from, sale_starts_at, sale_ends_at, created_at, updated_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NOW(6), NOW(6))`,
			[]byte(want.SKU), want.Name, want.PriceCents, want.Currency, want.Units, want.Units,
			want.PerCustomerLimit, cmp.Or(want.HoldPolicy, Lenient), want.VisibleFrom, want.SaleStartsAt, want.SaleEndsAt)
		return err
	})
	if IsDuplicate(err) {
		return false, nil
	}
	return err == nil, wrap("create SKU", err)
}

// Change changes the name, price, limit, hold policy, announcement and sale window of a
// SKU, unless it is withdrawn; with a revision, only if the SKU still has it. It reports
// whether it did. A desk that remembers the row must be told: see order.Service.PutSKU.
func (db *DB) Change(ctx context.Context, want Stock, revision *uint64) (changed bool, err error) {
	query := `UPDATE stock SET name = ?, price_cents = ?, currency = ?, per_customer_limit = ?, hold_policy = ?, visible_from = ?, sale_starts_at = ?,
		sale_ends_at = ?, seq = seq + 1, revision = revision + 1, updated_at = NOW(6) WHERE sku = ? AND withdrawn_at IS NULL`
	args := []any{want.Name, want.PriceCents, want.Currency, want.PerCustomerLimit, cmp.Or(want.HoldPolicy, Lenient),
		want.VisibleFrom, want.SaleStartsAt, want.SaleEndsAt, []byte(want.SKU)}
	if revision != nil {
		query, args = query+" AND revision = ?", append(args, *revision)
	}
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		rows, err := exec(ctx, conn, query, args...)
		changed = rows == 1
		return err
	})
	return changed, wrap("change SKU", err)
}

// Withdraw takes a SKU off the list and off sale; with a revision, only if the SKU still
// has it or is withdrawn already. It reports whether the SKU is withdrawn now. A desk that
// remembers the row must be told: see order.Service.Withdraw.
func (db *DB) Withdraw(ctx context.Context, sku string, revision *uint64) (withdrawn bool, err error) {
	query := `UPDATE stock SET withdrawn_at = COALESCE(withdrawn_at, NOW(6)), seq = seq + 1, revision = revision + 1,
		updated_at = NOW(6) WHERE sku = ?`
	args := []any{[]byte(sku)}
	if revision != nil {
		query, args = query+" AND (revision = ? OR withdrawn_at IS NOT NULL)", append(args, *revision)
	}
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		rows, err := exec(ctx, conn, query, args...)
		withdrawn = rows == 1
		return err
	})
	return withdrawn, wrap("withdraw SKU", err)
}

// Get reads one SKU, or returns ErrUnknownSKU.
func (db *DB) Get(ctx context.Context, sku string) (s Stock, err error) {
	err = db.orm.WithContext(ctx).Where("sku = ?", []byte(sku)).Take(&s).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return Stock{}, ErrUnknownSKU
	}
	return s, wrap("read SKU", err)
}

// GetMany reads SKUs in one query. The result lacks those that do not exist.
func (db *DB) GetMany(ctx context.Context, skus []string) (map[string]Stock, error) {
	names := make([][]byte, len(skus))
	for i, sku := range skus {
		names[i] = []byte(sku)
	}
	var list []Stock
	err := db.orm.WithContext(ctx).Where("sku IN ?", names).Find(&list).Error
	found := make(map[string]Stock, len(list))
	for _, s := range list {
		found[s.SKU] = s
	}
	return found, wrap("read SKUs", err)
}

// List reads up to limit SKUs that sort after the given one, in byte order.
func (db *DB) List(ctx context.Context, after string, limit int) (list []Stock, err error) {
	err = db.orm.WithContext(ctx).Where("sku > ?", []byte(after)).Order("sku").Limit(limit).Find(&list).Error
	return list, wrap("list SKUs", err)
}

// Level is how much of a SKU was left when its row had that seq.
type Level struct {
	SKU       string
	Units     int64
	Available int64
	Seq       uint64
	Unlisted  bool // see Stock.Listed
}

// Levels reads the level of every SKU, in byte order, in one query.
func (db *DB) Levels(ctx context.Context) ([]Level, error) {
	levels, err := Query(ctx, db.SQL, func(l *Level) []any { return []any{&l.SKU, &l.Units, &l.Available, &l.Seq, &l.Unlisted} },
		"SELECT sku, units, available, seq, NOT ("+listed+") FROM stock ORDER BY sku")
	return levels, wrap("read stock levels", err)
}

// Query reads all rows of a query. columns returns where a row's columns go. Query also
// returns the error of the next statement in the same packet.
func Query[T any](ctx context.Context, on interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, columns func(*T) []any, query string, args ...any) (all []T, err error) {
	rows, err := on.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one T
		if err := rows.Scan(columns(&one)...); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	rows.NextResultSet()
	return all, rows.Err()
}

// wrap adds what failed to an error; nil stays nil.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
