package proof

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

const (
	// sampleEvery is how often the stock is read during an attack.
	sampleEvery = 50 * time.Millisecond
	// sampleShare bounds what sampling takes of the time of one connection: a
	// slow database is read less often, so as not to be made slower.
	sampleShare = 10
	// sampleTimeout bounds one reading.
	sampleTimeout = time.Second
	// clockSkew is how far the replicas' clocks may be behind the harness's.
	clockSkew = time.Minute
	// connections: one samples, one audits.
	connections = 2
)

// Database reads the service's own tables. It writes nothing.
type Database struct{ stock *stock.DB }

// Open makes a connection pool for the DSN, and does not connect.
func Open(dsn string) (*Database, error) {
	db, err := stock.Open(dsn, connections)
	if err != nil {
		return nil, err
	}
	return &Database{db}, nil
}

// Close closes the pool.
func (d *Database) Close() error { return d.stock.Close() }

// Ping asks the server for an answer.
func (d *Database) Ping(ctx context.Context) error { return d.stock.Ping(ctx) }

// Books audits the database and reads the orders of the given SKUs. It is for
// the time after an attack; on a large table it takes seconds.
func (d *Database) Books(ctx context.Context, skus []string) (Books, error) {
	report, err := stock.Audit(ctx, d.stock)
	if err != nil {
		return Books{}, err
	}
	ours := make(map[string]bool, len(skus))
	for _, sku := range skus {
		ours[sku] = true
	}
	var books Books
	for _, b := range report.SKUs {
		if ours[b.SKU] {
			books.Balances = append(books.Balances, b)
		}
	}
	for _, v := range report.Violations {
		if ours[v.SKU] {
			books.Violations = append(books.Violations, v)
		}
	}
	if len(books.Balances) != len(skus) {
		return Books{}, fmt.Errorf("--mysql-dsn: the database has %d of the %d SKUs that were put on sale: is it the service's?",
			len(books.Balances), len(skus))
	}
	books.Rows, err = d.rows(ctx, skus)
	if err != nil {
		return Books{}, fmt.Errorf("read the orders: %w", err)
	}
	return books, nil
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

// Watch samples the stock of the given SKUs until stop is called or ctx ends; stop
// returns the samples. The first was taken when Watch returns. A reading that fails
// is left out: the picture has a gap then, and nothing is proven from it.
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
	s.at = sent.Add(time.Since(sent) / 2) // the snapshot was taken in between
	s.Available, s.Sold = available.Int64, sold.Int64
	return s, err
}

// sampleQuery is one statement, so that both figures are of one snapshot. Ids
// begin with the time of their making: the primary key leads to the orders made
// since, and a table of millions is not scanned.
func sampleQuery(skus []string, since time.Time) (string, []any) {
	marks, args := in(skus)
	var first uuid.UUID
	binary.BigEndian.PutUint64(first[:], uint64(since.Add(-clockSkew).UnixMilli())<<16)
	query := `SELECT (SELECT SUM(available) FROM stock WHERE sku IN (` + marks + `)),
		(SELECT SUM(quantity) FROM orders WHERE id >= ? AND sku IN (` + marks + `) AND status IN ('reserved', 'paid'))`
	all := append(append([]any{}, args...), first[:])
	return query, append(all, args...)
}

// in is the inside of an IN list, and its arguments, which are bytes: the column
// is compared byte for byte.
func in(skus []string) (marks string, args []any) {
	for _, sku := range skus {
		args = append(args, []byte(sku))
	}
	return strings.TrimSuffix(strings.Repeat("?,", len(skus)), ","), args
}
