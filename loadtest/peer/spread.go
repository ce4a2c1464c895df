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

// This file has the rivals that spread a SKU's stock over many rows, so that orders
// do not wait for one row. When they close, they write the sum into the stock row,
// which the audit reads.

// makeUnits creates the table of skip-locked: a row for each unit left.
const makeUnits = `CREATE TABLE IF NOT EXISTS peer_units (
	sku VARBINARY(64) NOT NULL, unit INT NOT NULL, PRIMARY KEY (sku, unit)) ENGINE = InnoDB`

const (
	// unitRows is the number of rows that one statement inserts.
	unitRows  = 5000
	pickUnits = "SELECT unit FROM peer_units WHERE sku = ? AND unit >= ? ORDER BY unit LIMIT ? FOR UPDATE SKIP LOCKED"
)

func openSkipLocked(ctx context.Context, s Servers) (rival, error) {
	d := newDatabase(s)
	d.created = func(ctx context.Context, row stock.Stock) error {
		for unit := int64(0); unit < row.Units; unit += unitRows {
			n := min(unitRows, row.Units-unit)
			args := make([]any, 0, 2*n)
			for i := range n {
				args = append(args, []byte(row.SKU), unit+i)
			}
			query := "INSERT INTO peer_units (sku, unit) VALUES (?, ?)" + strings.Repeat(", (?, ?)", int(n)-1)
			if _, err := s.DB.SQL.ExecContext(ctx, query, args...); err != nil {
				return fmt.Errorf("insert units: %w", err)
			}
		}
		return nil
	}
	d.attempt = func(ctx context.Context, id order.ID, r *order.Request) error {
		row, err := d.rows.get(ctx, r.SKU, s.DB.Get)
		if err != nil {
			return err
		}
		return s.DB.OnConn(ctx, func(conn *sql.Conn) error {
			// Starts at a random unit: at the front, deleted rows slow down the scan
			// until the server has purged them.
			units, err := pick(ctx, conn, begin+pickUnits, r, rand.Int64N(max(row.Units, 1)))
			if err == nil && len(units) < int(r.Quantity) {
				units, err = pick(ctx, conn, pickUnits, r, 0)
			}
			if err != nil {
				return err
			}
			if len(units) < int(r.Quantity) {
				_, err := conn.ExecContext(ctx, "ROLLBACK")
				return errors.Join(errRefused, err)
			}
			take := "DELETE FROM peer_units WHERE sku = ? AND unit IN (?" + strings.Repeat(", ?", len(units)-1) + ")"
			return commitWith(ctx, conn, "", take, append([]any{[]byte(r.SKU)}, units...), len(units), id, r)
		})
	}
	d.finish = d.sumUp("(SELECT COUNT(*) FROM peer_units u WHERE u.sku = s.sku)")
	_, err := s.DB.SQL.ExecContext(ctx, makeUnits)
	return d, err
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

// sumUp returns a function that writes the units left of each SKU into its stock
// row. The last replica that calls it counts everything.
func (d *database) sumUp(left string) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := d.db.SQL.ExecContext(ctx, "UPDATE stock s SET s.available = "+left); err != nil {
			return fmt.Errorf("sum up the stock: %w", err)
		}
		return nil
	}
}

// bucketCount is the number of rows that a SKU's stock is spread over.
const bucketCount = 16

const makeBuckets = `CREATE TABLE IF NOT EXISTS peer_buckets (
	sku VARBINARY(64) NOT NULL, bucket INT NOT NULL, available BIGINT NOT NULL, PRIMARY KEY (sku, bucket)) ENGINE = InnoDB`

const (
	takeFromBucket = "UPDATE peer_buckets SET available = available - ? WHERE sku = ? AND bucket = ? AND available >= ?"
	findBucket     = "SELECT bucket FROM peer_buckets WHERE sku = ? AND available >= ? ORDER BY RAND() LIMIT 1"
)

// openBuckets opens buckets: conditional-1trip on a random bucket, or on another one
// if that has too few units. An order must fit into one bucket.
func openBuckets(ctx context.Context, s Servers) (rival, error) {
	d := newDatabase(s)
	d.created = func(ctx context.Context, row stock.Stock) error {
		for bucket := range int64(bucketCount) {
			units := row.Units / bucketCount
			if bucket < row.Units%bucketCount {
				units++
			}
			_, err := s.DB.SQL.ExecContext(ctx, "INSERT INTO peer_buckets (sku, bucket, available) VALUES (?, ?, ?)", []byte(row.SKU), bucket, units)
			if err != nil {
				return fmt.Errorf("insert buckets: %w", err)
			}
		}
		return nil
	}
	d.attempt = func(ctx context.Context, id order.ID, r *order.Request) error {
		bucket := rand.IntN(bucketCount)
		for {
			err := d.oneTrip(ctx, id, r, takeFromBucket, r.Quantity, []byte(r.SKU), bucket, r.Quantity)
			if !errors.Is(err, errRefused) {
				return err
			}
			switch err := s.DB.SQL.QueryRowContext(ctx, findBucket, []byte(r.SKU), r.Quantity).Scan(&bucket); {
			case errors.Is(err, sql.ErrNoRows):
				return errRefused
			case err != nil:
				return err
			}
		}
	}
	d.finish = d.sumUp("(SELECT SUM(b.available) FROM peer_buckets b WHERE b.sku = s.sku)")
	_, err := s.DB.SQL.ExecContext(ctx, makeBuckets)
	return d, err
}
