// Package stock keeps the units of each SKU in MySQL: the table, the ways to
// write it, and the audit. It guarantees what one statement or transaction can:
// which way is right on several replicas is the strategy's matter. Orders are
// written by package order, in the transactions that are made here.
package stock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"flashsale/internal/mysqlsession"
)

var (
	// ErrUnknownSKU says that no such SKU was ever created.
	ErrUnknownSKU = errors.New("unknown SKU")
	// ErrShort says that fewer units are available than were asked for.
	ErrShort = errors.New("too few units available")
	// ErrFenced says that a newer fencing token was admitted, or that the row
	// has changed since it was read: nothing was written.
	ErrFenced = errors.New("a newer writer was admitted")
	// ErrTooManyUnits says that a SKU would have more than MaxUnits.
	ErrTooManyUnits = errors.New("the SKU would have too many units")
	// ErrContended says that a compare-and-swap kept losing: nothing was written.
	ErrContended = errors.New("stock row is too contended")
)

// MaxUnits is the most units that a SKU can have, over all restocks: the largest
// integer that every reader of JSON holds exactly.
const MaxUnits = 1<<53 - 1

// Stock is the row of one SKU. Prices are in the currency's cents, times UTC.
type Stock struct {
	SKU        string `gorm:"primaryKey"`
	Name       string
	PriceCents int64
	Currency   string
	// Units were put on sale; Available of them are left.
	Units            int64
	Available        int64
	PerCustomerLimit *int32
	SaleStartsAt     *time.Time
	SaleEndsAt       *time.Time
	// Fence is the highest fencing token admitted.
	Fence uint64
	// Seq grows by one with each write.
	Seq uint64
	// Revision grows with each change that an administrator makes, and not with
	// sales.
	Revision  uint64
	CreatedAt time.Time `gorm:"autoCreateTime:false"`
	UpdatedAt time.Time `gorm:"autoUpdateTime:false"`
}

// TableName is gorm's: the table is called stock, not stocks.
func (Stock) TableName() string { return "stock" }

// Row is a Stock as it was read at Now by the database's clock.
type Row struct {
	Stock
	Now time.Time
}

// Open reports whether the sale is open at t: -1 before it, 1 after it.
func (s *Stock) Open(t time.Time) int {
	switch {
	case s.SaleStartsAt != nil && t.Before(*s.SaleStartsAt):
		return -1
	case s.SaleEndsAt != nil && !t.Before(*s.SaleEndsAt):
		return 1
	}
	return 0
}

// Create puts a new SKU on sale. It reports false, and changes nothing, when the
// SKU exists.
func (db *DB) Create(ctx context.Context, want Stock) (created bool, err error) {
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		_, err := conn.ExecContext(ctx, `INSERT INTO stock
			(sku, name, price_cents, currency, units, available, per_customer_limit, sale_starts_at, sale_ends_at, created_at, updated_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NOW(6), NOW(6))`,
			[]byte(want.SKU), want.Name, want.PriceCents, want.Currency, want.Units, want.Units,
			want.PerCustomerLimit, want.SaleStartsAt, want.SaleEndsAt)
		return err
	})
	if IsDuplicate(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create SKU: %w", err)
	}
	return true, nil
}

const (
	changeRow = `UPDATE stock SET name = ?, price_cents = ?, currency = ?, per_customer_limit = ?, sale_starts_at = ?,
		sale_ends_at = ?, seq = seq + 1, revision = revision + 1, updated_at = NOW(6) WHERE sku = ?`
	onlyRevision = " AND revision = ?"
)

// Change changes what may be changed of a SKU: its name, price, limit and
// window; with a revision, only if that is still the SKU's. It reports whether
// it did. A desk that remembers the row must be told: see order.Service.PutSKU.
func (db *DB) Change(ctx context.Context, want Stock, revision *uint64) (changed bool, err error) {
	query := changeRow
	args := []any{want.Name, want.PriceCents, want.Currency, want.PerCustomerLimit, want.SaleStartsAt, want.SaleEndsAt, []byte(want.SKU)}
	if revision != nil {
		query, args = query+onlyRevision, append(args, *revision)
	}
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		rows, err := exec(ctx, conn, query, args...)
		changed = rows == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("change SKU: %w", err)
	}
	return changed, nil
}

// Get reads one SKU, or returns ErrUnknownSKU.
func (db *DB) Get(ctx context.Context, sku string) (Stock, error) {
	var s Stock
	err := db.orm.WithContext(ctx).Where("sku = ?", []byte(sku)).Take(&s).Error
	if errors.Is(err, gorm.ErrRecordNotFound) {
		return Stock{}, ErrUnknownSKU
	}
	if err != nil {
		return Stock{}, fmt.Errorf("read SKU: %w", err)
	}
	return s, nil
}

// List reads up to limit SKUs that sort after the given one, in byte order.
func (db *DB) List(ctx context.Context, after string, limit int) ([]Stock, error) {
	var list []Stock
	err := db.orm.WithContext(ctx).Where("sku > ?", []byte(after)).Order("sku").Limit(limit).Find(&list).Error
	if err != nil {
		return nil, fmt.Errorf("list SKUs: %w", err)
	}
	return list, nil
}

// The server's error numbers that the code acts on.
const (
	errDuplicate       = 1062
	errLockWaitTimeout = 1205
	errDeadlock        = 1213
	errRecordChanged   = 1020 // MariaDB 11.6 and later: snapshot isolation
	errRolledBack      = 3101 // Group Replication: another node's transaction came first
	errNoSuchTable     = 1146
)

// IsDuplicate reports whether err is a violation of a unique key.
func IsDuplicate(err error) bool { return serverError(err) == errDuplicate }

// IsRetryable reports whether err says that the server gave up a transaction
// which may succeed if it is run again from its beginning. That is so also where
// it answers COMMIT: a node of Galera (by errDeadlock) or of Group Replication
// compares a transaction with those of other nodes only then.
func IsRetryable(err error) bool {
	switch serverError(err) {
	case errLockWaitTimeout, errDeadlock, errRecordChanged, errRolledBack:
		return true
	}
	return false
}

// IsReadOnly reports whether err says that the server takes no writes, so that what
// was to be written was not applied, also where it answers COMMIT. Another may take
// them: see package mysqlsession.
func IsReadOnly(err error) bool { return mysqlsession.RefusesWrites(err) }

// IsServerError reports whether err is the server's own word: the statement that
// it answers was not applied.
func IsServerError(err error) bool { return serverError(err) != 0 }

// IsNoTable reports whether err says that a table does not exist.
func IsNoTable(err error) bool { return serverError(err) == errNoSuchTable }

// IsDenied reports whether err says that the account lacks a right.
func IsDenied(err error) bool {
	switch serverError(err) {
	case 1044, 1142, 1143, 1227: // the database, a table, a column, a global right
		return true
	}
	return false
}

// serverError is the number of an error that the server answered, or 0.
func serverError(err error) uint16 {
	if my, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return my.Number
	}
	return 0
}
