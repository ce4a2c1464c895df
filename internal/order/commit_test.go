package order_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// manySKUs makes a database with n SKUs of 1000 units: sku00000 and so on. The clock of
// db stands still, so that a row can be read long before it is written.
func manySKUs(t testing.TB, n int) (dsn string, db *stock.DB) {
	t.Helper()
	dsn = newDSN(t, stock.Stock{Units: 1})
	db = open(t, dsn)
	setClock(t, db, time.Unix(1777636800, 0))
	_, err := db.SQL.ExecContext(t.Context(), `INSERT INTO stock (sku, name, price_cents, currency, units, available, created_at, updated_at)
		SELECT CONCAT('sku', LPAD(seq - 1, 5, '0')), 'A thing', 999, 'EUR', 1000, 1000, NOW(6), NOW(6) FROM `+sandboxtest.Numbers(n)+` n`)
	if err != nil {
		t.Fatal(err)
	}
	return dsn, db
}

func name(i int) string { return fmt.Sprintf("sku%05d", i) }

// part claims a SKU and makes a Part of n orders.
func part(t testing.TB, db *stock.DB, i, n int) order.Part {
	t.Helper()
	tenure := stock.Claim{SKU: name(i), Token: 7, Fence: strategy.FenceClaim}
	row, err := tenure.Read(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return order.Part{Row: row, Token: 7, Orders: n}
}

func TestStaleSKUDoesNotFailItsGroup(t *testing.T) {
	t.Parallel()
	// More SKUs than one statement takes, so that some come before the stop.
	const skus, newer, changed = 70, 3, 50
	_, db := manySKUs(t, skus)
	var parts []order.Part
	for i := range skus {
		parts = append(parts, part(t, db, i, 1+i%3))
	}
	if _, err := (stock.Claim{SKU: name(newer), Token: 8, Fence: strategy.FenceClaim}).Read(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Change(t.Context(), parts[changed].Row.Stock, nil); err != nil { // advances its seq
		t.Fatal(err)
	}
	var want, reserved []int64
	for i, err := range order.CommitGroup(t.Context(), db, parts...) {
		if stale := i == newer || i == changed; stale != errors.Is(err, stock.ErrFenced) || !stale && err != nil {
			t.Errorf("%s: got %v, stale %v", name(i), err, stale)
		}
		want = append(want, int64(parts[i].Orders))
	}
	want[newer], want[changed] = 0, 0
	report, err := stock.Audit(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range report.SKUs[1:] { // without "sku"
		reserved = append(reserved, b.Reserved)
	}
	if !report.OK || !slices.Equal(reserved, want) {
		t.Errorf("reserved %v, want %v; violations %+v", reserved, want, report.Violations)
	}
}

// A group reads and locks only its own rows, however many SKUs there are.
func TestGroupTouchesOnlyItsRows(t *testing.T) {
	t.Parallel()
	for _, skus := range []int{4, 10_000} {
		t.Run(fmt.Sprint(skus), func(t *testing.T) {
			t.Parallel()
			_, db := manySKUs(t, skus)
			if _, err := db.SQL.ExecContext(t.Context(), "ANALYZE TABLE stock"); err != nil {
				t.Fatal(err)
			}
			query := strings.TrimSuffix(order.GroupText(part(t, db, 0, 3), part(t, db, 3, 4)), "; COMMIT")
			conn, err := db.SQL.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.ExecContext(t.Context(), query); err != nil {
				t.Fatal(err)
			}
			// Other rows, between and after those, stay unlocked.
			for _, other := range []int{1, 2, skus - 1} {
				if other == 3 {
					continue
				}
				if _, err := db.SQL.ExecContext(t.Context(), "SELECT sku FROM stock WHERE sku = ? FOR UPDATE NOWAIT", []byte(name(other))); err != nil {
					t.Errorf("%s is not in the group, but locked: %v", name(other), err)
				}
			}
			for statement := range strings.SplitSeq(query, "; ") {
				if strings.HasPrefix(statement, "UPDATE") {
					checkPlan(t, conn, statement, 2)
				}
			}
			if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// querier is a connection or a pool.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// checkPlan fails the test unless the statement reads that many rows of stock by
// primary key.
func checkPlan(t *testing.T, db querier, statement string, rows int) {
	t.Helper()
	found := false
	for _, row := range explain(t, db, statement, nil) {
		if row["table"] != "stock" {
			continue
		}
		found = true
		if row["key"] != "PRIMARY" || row["rows"] != fmt.Sprint(rows) {
			t.Errorf("stock is read by key %q, %s rows: %s", row["key"], row["rows"], statement)
		}
	}
	if !found {
		t.Errorf("the plan does not contain stock: %s", statement)
	}
}

// explain returns the rows of a statement's plan, by column name.
func explain(t *testing.T, db querier, statement string, args []any) (plan []map[string]string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN FORMAT=TRADITIONAL "+statement, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]*string, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		row := map[string]string{}
		for i, column := range columns {
			if values[i] != nil {
				row[column] = *values[i]
			}
		}
		plan = append(plan, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan
}

// Another client's transaction holds one SKU's row. The SKU may delay its first group,
// but no later one.
func TestLockedSKUDelaysOnlyOneGroup(t *testing.T) {
	t.Parallel()
	const skus, rounds = 8, 40
	dsn, db := manySKUs(t, skus)
	service := startReplica(t, options{dsn: dsn, strategy: "etcd"})
	sell := func(i, round int) error {
		_, err := service.Place(t.Context(), order.Request{SKU: name(i), Customer: "ann", Key: fmt.Sprint(i, "-", round), Quantity: 1})
		return err
	}
	for i := range skus { // every desk holds its lock
		if err := sell(i, 0); err != nil {
			t.Fatal(err)
		}
	}
	stranger, err := db.SQL.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	for _, query := range []string{"BEGIN", "UPDATE stock SET name = 'mine' WHERE sku = '" + name(0) + "'"} {
		if _, err := stranger.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	busy := make(chan struct{})
	go func() { // busy: an idle connection would be killed
		defer close(busy)
		_, _ = stranger.ExecContext(t.Context(), "DO SLEEP(300)")
	}()
	ctx, cancel := context.WithCancel(t.Context())
	var locked sync.WaitGroup
	locked.Go(func() {
		for round := 1; ctx.Err() == nil; round++ {
			_ = sell(0, round) // fails while the row is locked
		}
	})
	began := time.Now()
	var others sync.WaitGroup
	for i := 1; i < skus; i++ {
		others.Go(func() {
			for round := range rounds {
				if err := sell(i, 1+round); err != nil {
					t.Errorf("%s: %v", name(i), err)
				}
			}
		})
	}
	others.Wait()
	// One wait for the row takes the server a second. If each group waited, the rounds
	// would take 40 seconds.
	if took := time.Since(began); took > rounds*time.Second*2/3 {
		t.Errorf("the other SKUs took %s for %d orders each, want less than the wait for one lock per round", took, rounds)
	}
	execSQL(t, dsn, fmt.Sprintf("KILL QUERY %d", sleeper(t, db.Name)))
	<-busy
	if _, err := stranger.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Error(err)
	}
	cancel()
	locked.Wait()
	if err := sell(0, 0); err != nil {
		t.Errorf("the locked SKU: %v", err)
	}
	if report, err := stock.Audit(t.Context(), db); err != nil || !report.OK {
		t.Errorf("audit: %+v, %v", report.Violations, err)
	}
}
