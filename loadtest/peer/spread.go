package peer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// This file holds the rivals that spread a SKU's stock over many rows, so that
// orders do not queue for one. The row in the stock table, which the audit reads,
// is brought up to date at the end.

// skipLocked has a row for each unit that is left.
type skipLocked struct{ database }

const makeUnits = `CREATE TABLE IF NOT EXISTS peer_units (
	sku VARBINARY(64) NOT NULL, unit INT NOT NULL, PRIMARY KEY (sku, unit)) ENGINE = InnoDB`

func openSkipLocked(ctx context.Context, s Servers) (rival, error) {
	_, err := s.DB.SQL.ExecContext(ctx, makeUnits)
	return &skipLocked{database{db: s.DB}}, err
}

// unitRows are inserted by one statement.
const unitRows = 5000

func (s *skipLocked) PutSKU(ctx context.Context, want stock.Stock, only order.Precondition) (stock.Stock, bool, error) {
	got, created, err := s.database.PutSKU(ctx, want, only)
	if err != nil || !created {
		return got, created, err
	}
	for unit := int64(0); unit < want.Units; unit += unitRows {
		n := min(unitRows, want.Units-unit)
		args := make([]any, 0, 2*n)
		for i := range n {
			args = append(args, []byte(want.SKU), unit+i)
		}
		query := "INSERT INTO peer_units (sku, unit) VALUES (?, ?)" + strings.Repeat(", (?, ?)", int(n)-1)
		if _, err := s.db.SQL.ExecContext(ctx, query, args...); err != nil {
			return got, created, fmt.Errorf("make units: %w", err)
		}
	}
	return got, created, nil
}

const pickUnits = "SELECT unit FROM peer_units WHERE sku = ? AND unit >= ? ORDER BY unit LIMIT ? FOR UPDATE SKIP LOCKED"

func (s *skipLocked) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	return s.place(ctx, &r, func(ctx context.Context, id order.ID) error {
		row, err := s.rows.get(ctx, r.SKU, s.db.Get)
		if err != nil {
			return err
		}
		return s.db.OnConn(ctx, func(conn *sql.Conn) error {
			// Not always from the front: rows that were deleted there have to be
			// stepped over until the server has purged them.
			units, err := pick(ctx, conn, begin+pickUnits, &r, rand.Int64N(max(row.Units, 1)))
			if err == nil && len(units) < int(r.Quantity) {
				units, err = pick(ctx, conn, pickUnits, &r, 0)
			}
			if err != nil {
				return err
			}
			if len(units) < int(r.Quantity) {
				return errors.Join(errRefused, rollback(ctx, conn))
			}
			take := "DELETE FROM peer_units WHERE sku = ? AND unit IN (?" + strings.Repeat(", ?", len(units)-1) + ")"
			return commitWith(ctx, conn, "", take, append([]any{[]byte(r.SKU)}, units...), len(units), id, &r)
		})
	})
}

func pick(ctx context.Context, conn *sql.Conn, query string, r *order.Request, from int64) (units []any, err error) {
	rows, err := conn.QueryContext(ctx, query, []byte(r.SKU), from, r.Quantity)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var unit int64
		if err := rows.Scan(&unit); err != nil {
			return nil, err
		}
		units = append(units, unit)
	}
	return units, rows.Err()
}

func rollback(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "ROLLBACK")
	return err
}

func (s *skipLocked) close(ctx context.Context) error {
	return putTogether(ctx, s.db, "(SELECT COUNT(*) FROM peer_units u WHERE u.sku = s.sku)")
}

// putTogether writes what is left of each SKU into its stock row. Whichever
// replica comes last has counted everything.
func putTogether(ctx context.Context, db *stock.DB, left string) error {
	if _, err := db.SQL.ExecContext(ctx, "UPDATE stock s SET s.available = "+left); err != nil {
		return fmt.Errorf("put the stock together: %w", err)
	}
	return nil
}

// bucketCount is how many rows the stock of a SKU is spread over.
const bucketCount = 16

// buckets is conditional-1trip on one of the buckets, any other when that has too
// few. An order larger than what any single one has is refused.
type buckets struct{ database }

const makeBuckets = `CREATE TABLE IF NOT EXISTS peer_buckets (
	sku VARBINARY(64) NOT NULL, bucket INT NOT NULL, available BIGINT NOT NULL, PRIMARY KEY (sku, bucket)) ENGINE = InnoDB`

func openBuckets(ctx context.Context, s Servers) (rival, error) {
	_, err := s.DB.SQL.ExecContext(ctx, makeBuckets)
	return &buckets{database{db: s.DB}}, err
}

func (b *buckets) PutSKU(ctx context.Context, want stock.Stock, only order.Precondition) (stock.Stock, bool, error) {
	got, created, err := b.database.PutSKU(ctx, want, only)
	if err != nil || !created {
		return got, created, err
	}
	for bucket := range int64(bucketCount) {
		units := want.Units / bucketCount
		if bucket < want.Units%bucketCount {
			units++
		}
		_, err := b.db.SQL.ExecContext(ctx, "INSERT INTO peer_buckets (sku, bucket, available) VALUES (?, ?, ?)", []byte(want.SKU), bucket, units)
		if err != nil {
			return got, created, fmt.Errorf("make buckets: %w", err)
		}
	}
	return got, created, nil
}

const takeFromBucket = "UPDATE peer_buckets SET available = available - ? WHERE sku = ? AND bucket = ? AND available >= ?"

func (b *buckets) Place(ctx context.Context, r order.Request) (order.Placed, error) {
	return b.place(ctx, &r, func(ctx context.Context, id order.ID) error {
		bucket := rand.IntN(bucketCount)
		for {
			err := b.oneTrip(ctx, id, &r, takeFromBucket, r.Quantity, []byte(r.SKU), bucket, r.Quantity)
			if !errors.Is(err, errRefused) {
				return err
			}
			if bucket, err = b.other(ctx, &r); err != nil {
				return err
			}
		}
	})
}

// other is any bucket that has enough, or errRefused.
func (b *buckets) other(ctx context.Context, r *order.Request) (bucket int, err error) {
	err = b.db.SQL.QueryRowContext(ctx, "SELECT bucket FROM peer_buckets WHERE sku = ? AND available >= ? ORDER BY RAND() LIMIT 1",
		[]byte(r.SKU), r.Quantity).Scan(&bucket)
	if errors.Is(err, sql.ErrNoRows) {
		err = errRefused
	}
	return bucket, err
}

func (b *buckets) close(ctx context.Context) error {
	return putTogether(ctx, b.db, "(SELECT SUM(b.available) FROM peer_buckets b WHERE b.sku = s.sku)")
}
