package proof

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

const (
	// sampleEvery is the interval of samples during an attack.
	sampleEvery = 50 * time.Millisecond
	// sampleShare limits sampling to 1/sampleShare of the time, so that it does not
	// load a slow database.
	sampleShare = 10
	// sampleTimeout bounds one sample.
	sampleTimeout = time.Second
	// clockSkew is how far the replicas' clocks may be behind this clock.
	clockSkew = time.Minute
	// connections are one for samples and one for the audit.
	connections = 2
)

// Database reads the service's tables. It does not write.
type Database struct{ stock *stock.DB }

// Open opens a connection pool for the DSN. It does not connect.
func Open(dsn string) (*Database, error) {
	db, err := stock.Open(dsn, connections)
	if err != nil {
		return nil, err
	}
	return &Database{db}, nil
}

// Close closes the pool.
func (d *Database) Close() error { return d.stock.Close() }

// Ping checks that the server answers.
func (d *Database) Ping(ctx context.Context) error { return d.stock.Ping(ctx) }

// ReadRecords opens the database of that DSN, reads its records and closes it.
func ReadRecords(ctx context.Context, dsn string, skus []string) (records Records, err error) {
	db, err := Open(dsn)
	if err != nil {
		return records, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Records(ctx, skus)
}

// Records audits the database and reads the orders of those SKUs. Call it after an
// attack: on a large table it takes seconds.
func (d *Database) Records(ctx context.Context, skus []string) (Records, error) {
	report, err := stock.Audit(ctx, d.stock)
	if err != nil {
		return Records{}, err
	}
	ours := make(map[string]bool, len(skus))
	for _, sku := range skus {
		ours[sku] = true
	}
	records := Records{
		Balances:   slices.DeleteFunc(report.SKUs, func(b stock.Balance) bool { return !ours[b.SKU] }),
		Violations: slices.DeleteFunc(report.Violations, func(v stock.Violation) bool { return !ours[v.SKU] }),
	}
	if len(records.Balances) != len(skus) {
		return Records{}, fmt.Errorf("--mysql-dsn: the database has %d of the %d SKUs that were put on sale; it is not the database of these replicas",
			len(records.Balances), len(skus))
	}
	records.Rows, err = d.rows(ctx, skus)
	if err != nil {
		return Records{}, fmt.Errorf("read the orders: %w", err)
	}
	return records, nil
}

func (d *Database) rows(ctx context.Context, skus []string) (list []Row, err error) {
	marks, args := in(skus)
	rows, err := d.stock.SQL.QueryContext(ctx, `SELECT id, sku, customer, idempotency_key, quantity, status,
		COALESCE(per_customer_limit, 0) FROM orders WHERE sku IN (`+marks+`)`, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			row Row
			id  []byte
		)
		if err := rows.Scan(&id, &row.SKU, &row.Customer, &row.Key, &row.Quantity, &row.Status, &row.Limit); err != nil {
			return nil, err
		}
		if row.ID, err = uuid.FromBytes(id); err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	return list, rows.Err()
}

// Watch samples the stock of those SKUs until stop is called or ctx ends. stop
// returns the samples. The first one is taken before Watch returns. Samples that
// fail are left out: they are only shown, and prove nothing.
func (d *Database) Watch(ctx context.Context, skus []string) (stop func() []Sample) {
	ctx, cancel := context.WithCancel(ctx)
	query, args := sampleQuery(skus, time.Now())
	var samples []Sample
	sample := func() (pause time.Duration) {
		start := time.Now()
		if s, err := d.sample(ctx, query, args); err == nil {
			samples = append(samples, s)
		}
		return max(sampleEvery-time.Since(start), (sampleShare-1)*time.Since(start))
	}
	pause := sample()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep.For(ctx, pause) == nil {
			pause = sample()
		}
	}()
	return func() []Sample {
		cancel()
		<-done
		return samples
	}
}

func (d *Database) sample(ctx context.Context, query string, args []any) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	var (
		s               Sample
		available, sold sql.NullInt64
	)
	sent := time.Now()
	err := d.stock.SQL.QueryRowContext(ctx, query, args...).Scan(&available, &sold)
	s.at = sent.Add(time.Since(sent) / 2) // the snapshot is from between the two
	s.Available, s.Sold = available.Int64, sold.Int64
	return s, err
}

// sampleQuery is one statement, so that both figures come from one snapshot. Order
// ids begin with their time: the primary key finds the orders since then, without a
// scan of the table.
func sampleQuery(skus []string, since time.Time) (string, []any) {
	marks, args := in(skus)
	var first uuid.UUID
	binary.BigEndian.PutUint64(first[:], uint64(since.Add(-clockSkew).UnixMilli())<<16)
	query := `SELECT (SELECT SUM(available) FROM stock WHERE sku IN (` + marks + `)),
		(SELECT SUM(quantity) FROM orders WHERE id >= ? AND sku IN (` + marks + `) AND status IN ('reserved', 'paid'))`
	all := append(append([]any{}, args...), first[:])
	return query, append(all, args...)
}

// in returns the inside of an IN list and its arguments. They are bytes, because the
// column is compared byte for byte.
func in(skus []string) (marks string, args []any) {
	for _, sku := range skus {
		args = append(args, []byte(sku))
	}
	return strings.TrimSuffix(strings.Repeat("?,", len(skus)), ","), args
}
