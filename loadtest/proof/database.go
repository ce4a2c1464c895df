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
	"flashsale/loadtest/attack"
)

const (
	// sampleEvery is the interval of samples during an attack.
	sampleEvery = 50 * time.Millisecond
	// sampleShare limits sampling to 1/sampleShare of the time, for slow databases.
	sampleShare   = 10
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
	take := d.Sampler(skus)
	var samples []Sample
	sample := func() (pause time.Duration) {
		start := time.Now()
		if s, err := take(ctx); err == nil {
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

// Sampler returns a function that takes one sample of those SKUs. It counts the orders
// that are made from now on, and takes at most a second.
func (d *Database) Sampler(skus []string) func(context.Context) (Sample, error) {
	query, args := sampleQuery(skus, time.Now())
	return func(ctx context.Context) (Sample, error) { return d.sample(ctx, query, args) }
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

// in returns the inside of an IN list and its arguments: the column is binary.
func in(skus []string) (marks string, args []any) {
	for _, sku := range skus {
		args = append(args, []byte(sku))
	}
	return strings.TrimSuffix(strings.Repeat("?,", len(skus)), ","), args
}

// Held is the units of a SKU's orders that are reserved or paid.
func Held(rows []Row, sku string) int64 {
	b := balances(rows)[sku]
	return b.Reserved + b.Paid
}

// balances adds up the units of orders by SKU and state.
func balances(rows []Row) map[string]stock.Balance {
	all := map[string]stock.Balance{}
	for i := range rows {
		row, b, units := &rows[i], all[rows[i].SKU], int64(rows[i].Quantity)
		switch {
		case row.Status == "paid":
			b.Paid += units
		case row.holds():
			b.Reserved += units
		default:
			b.Returned += units
		}
		all[row.SKU] = b
	}
	return all
}

// UnitsChanged is the violation that the service shows other units than were put on sale.
func UnitsChanged(shown *attack.Stock, put int64) stock.Violation {
	return stock.Violation{SKU: shown.SKU, Invariant: stock.Conservation,
		Detail: fmt.Sprintf("units is %d, but %d was put on sale", shown.Units, put)}
}

// RecordsOf are the records of orders and stock that were read without an audit. It
// checks conservation. Orders whose answer was lost may not be among the rows, so up to
// their units may be missing; answers is nil if the rows are complete.
func RecordsOf(rows []Row, stocks []attack.Stock, plan *attack.Plan, answers []attack.Answer) Records {
	uncertain := map[string]int64{}
	for seq := range answers {
		if a := &answers[seq]; a.Call == attack.Place && a.Outcome == attack.Ambiguous {
			o := plan.Order(seq)
			uncertain[o.SKU] += int64(o.Quantity)
		}
	}
	records, sums := Records{Rows: rows}, balances(rows)
	for _, s := range stocks {
		b := sums[s.SKU]
		b.SKU, b.Units, b.Available = s.SKU, s.Units, s.Available
		sold := b.Reserved + b.Paid
		b.Oversold = max(0, sold-b.Units)
		missing := b.Units - b.Available - sold
		b.OK = missing >= 0 && missing <= uncertain[s.SKU] && b.Available >= 0
		if !b.OK {
			records.Violations = append(records.Violations, stock.Violation{
				SKU: s.SKU, Invariant: stock.Conservation,
				Detail: fmt.Sprintf("%d units, but %d available + %d in orders", b.Units, b.Available, sold),
			})
		}
		records.Balances = append(records.Balances, b)
	}
	return records
}
