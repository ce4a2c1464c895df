package stock_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// take takes n units in a transaction of its own.
func take(ctx context.Context, db *stock.DB, way strategy.Write, n int32) (row stock.Row, err error) {
	err = db.InTx(ctx, func(conn *sql.Conn) (err error) {
		row, err = stock.Writer{Way: way}.Take(ctx, conn, "sku", n)
		return err
	})
	return row, err
}

var ways = []strategy.Write{strategy.ReadThenWrite, strategy.SelectForUpdate, strategy.Conditional, strategy.Version}

func TestTakeCountsDownAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	for _, way := range ways {
		t.Run(string(way), func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			row, err := take(t.Context(), db, way, 7)
			if err != nil || row.Available != 3 || row.Seq != 1 {
				t.Fatalf("7 of 10: available %d, seq %d, error %v; want 3, 1, none", row.Available, row.Seq, err)
			}
			row, err = take(t.Context(), db, way, 4)
			if !errors.Is(err, stock.ErrShort) || row.Available != 3 {
				t.Errorf("4 of 3: available %d, error %v; want 3 and %v", row.Available, err, stock.ErrShort)
			}
			got, err := db.Get(t.Context(), "sku")
			if err != nil {
				t.Fatal(err)
			}
			if got.Available != 3 || got.Seq != 1 {
				t.Errorf("the row has available %d, seq %d; want 3, 1", got.Available, got.Seq)
			}
		})
	}
}

func TestTakeOfNoSKU(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, way := range ways {
		err := db.InTx(t.Context(), func(conn *sql.Conn) error {
			_, err := stock.Writer{Way: way}.Take(t.Context(), conn, "SKU", 1) // case counts
			return err
		})
		if !errors.Is(err, stock.ErrUnknownSKU) {
			t.Errorf("%s: got %v, want %v", way, err, stock.ErrUnknownSKU)
		}
	}
}

// The ways that need no lock are exact with many writers at once.
func TestGuardedWaysNeverTakeTooMuch(t *testing.T) {
	t.Parallel()
	for _, way := range []strategy.Write{strategy.SelectForUpdate, strategy.Conditional, strategy.Version} {
		t.Run(string(way), func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			var taken sync.Map
			var group sync.WaitGroup
			for i := range 40 {
				group.Go(func() {
					_, err := take(t.Context(), db, way, 1)
					for stock.IsRetryable(err) { // others' commits have taken more than a second
						_, err = take(t.Context(), db, way, 1)
					}
					if err == nil {
						taken.Store(i, true)
					} else if !errors.Is(err, stock.ErrShort) {
						t.Error(err)
					}
				})
			}
			group.Wait()
			n := 0
			taken.Range(func(any, any) bool { n++; return true })
			if n != 10 {
				t.Errorf("took %d units of 10", n)
			}
		})
	}
}

// apply takes n units at the time at which the row was read.
func apply(t *testing.T, db *stock.DB, tenure stock.Claim, row stock.Row, n int64) int64 {
	t.Helper()
	return applyAt(t, db, tenure, row, n, row.Now)
}

// applyAt takes n units for orders of the time at which the row was read, while the
// database's clock stands at now.
func applyAt(t *testing.T, db *stock.DB, tenure stock.Claim, row stock.Row, n int64, now time.Time) (changed int64) {
	t.Helper()
	err := db.OnConn(t.Context(), func(conn *sql.Conn) error {
		query := fmt.Sprintf("SET @@timestamp = %d.%06d; ", now.Unix(), now.Nanosecond()/1000) +
			stock.Take{Claim: tenure, Row: row, Units: n, At: row.Now}.Statement()
		result, err := conn.ExecContext(t.Context(), query)
		if err != nil {
			return err
		}
		if changed, err = result.RowsAffected(); err != nil {
			return err
		}
		_, err = conn.ExecContext(t.Context(), "SET @@timestamp = DEFAULT")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func begin(t *testing.T, db *stock.DB, tenure stock.Claim) (stock.Row, error) {
	t.Helper()
	return tenure.Begin(t.Context(), db)
}

// A holder reads, is paused, and writes after its successor has read. What
// happens then is the difference between the three fences.
func TestStaleHolderUnderEachFence(t *testing.T) {
	t.Parallel()
	tests := []struct {
		fence strategy.Fence
		// stale is how many rows the old holder's write changes after the new
		// holder's read; available is what is left in the end of 10 units,
		// when each took 1: with 9 an update was lost.
		stale, available int64
	}{
		{strategy.FenceOff, 1, 9},
		{strategy.FenceWrite, 1, 9},
		{strategy.FenceClaim, 0, 9},
	}
	for _, test := range tests {
		t.Run(string(test.fence), func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			older := stock.Claim{SKU: "sku", Token: 5, Fence: test.fence}
			newer := stock.Claim{SKU: "sku", Token: 6, Fence: test.fence}
			oldRow, err := begin(t, db, older)
			if err != nil {
				t.Fatal(err)
			}
			newRow, err := begin(t, db, newer)
			if err != nil {
				t.Fatal(err)
			}
			if got := apply(t, db, older, oldRow, 1); got != test.stale {
				t.Errorf("the stale write changed %d rows, want %d", got, test.stale)
			}
			if got := apply(t, db, newer, newRow, 1); got != 1 {
				t.Errorf("the holder's write changed %d rows, want 1", got)
			}
			row, err := db.Get(t.Context(), "sku")
			if err != nil {
				t.Fatal(err)
			}
			if row.Available != test.available {
				t.Errorf("%d available, want %d", row.Available, test.available)
			}
		})
	}
}

func TestClaimWithAnOldTokenIsFenced(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	for _, step := range []struct {
		token lock.Token
		want  error
	}{{5, nil}, {5, nil}, {7, nil}, {6, stock.ErrFenced}, {7, nil}} {
		_, err := begin(t, db, stock.Claim{SKU: "sku", Token: step.token, Fence: strategy.FenceClaim})
		if !errors.Is(err, step.want) {
			t.Errorf("claim with token %d: got %v, want %v", step.token, err, step.want)
		}
	}
}

// A change by others, behind the same token, makes what is remembered stale.
func TestChangedRowRefusesARememberedOne(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	tenure := stock.Claim{SKU: "sku", Token: 5, Fence: strategy.FenceClaim}
	row, err := begin(t, db, tenure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Change(t.Context(), row.Stock, nil); err != nil {
		t.Fatal(err)
	}
	if got := apply(t, db, tenure, row, 1); got != 0 {
		t.Errorf("a write from a stale row changed %d rows", got)
	}
}

// The clock that a tenure extrapolates parts from the database's when the host is
// suspended, or when the other is stepped.
func TestClaimOfAnotherTimeTakesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fence  strategy.Fence
		ahead  time.Duration // the database's clock
		starts time.Duration // the sale, by the tenure's clock; an hour before it when zero
		ends   time.Duration // likewise; an hour after it
		want   int64
	}{
		{fence: strategy.FenceClaim, want: 1},
		{fence: strategy.FenceClaim, ahead: stock.ClockTolerance - time.Microsecond, want: 1},
		{fence: strategy.FenceClaim, ahead: -stock.ClockTolerance, want: 1},
		{fence: strategy.FenceClaim, ahead: 10 * time.Second},
		{fence: strategy.FenceClaim, ahead: -10 * time.Second},
		{fence: strategy.FenceClaim, ahead: time.Second, ends: time.Second},
		{fence: strategy.FenceClaim, ahead: time.Second - time.Microsecond, ends: time.Second, want: 1},
		{fence: strategy.FenceClaim, ahead: -time.Second, starts: -time.Second, want: 1},
		{fence: strategy.FenceClaim, ahead: -time.Second - time.Microsecond, starts: -time.Second},
		{fence: strategy.FenceOff, ahead: 2 * time.Hour, want: 1},
		{fence: strategy.FenceWrite, ahead: 2 * time.Hour, want: 1},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			t.Parallel()
			db := newDB(t)
			starts, ends := cmp.Or(test.starts, -time.Hour), cmp.Or(test.ends, time.Hour)
			now, err := db.Now(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec(t, db, "UPDATE stock SET sale_starts_at = ?, sale_ends_at = ?", now.Add(starts), now.Add(ends))
			tenure := stock.Claim{SKU: "sku", Token: 5, Fence: test.fence}
			row, err := begin(t, db, tenure)
			if err != nil {
				t.Fatal(err)
			}
			row.Now = now
			if got := applyAt(t, db, tenure, row, 1, now.Add(test.ahead)); got != test.want {
				t.Errorf("the write changed %d rows, want %d", got, test.want)
			}
		})
	}
}

// claimAnyhow claims as a desk does: a claim that waited for its row in vain, since
// this process was stopped while it looked for who is in the way, is made again.
func claimAnyhow(t *testing.T, db *stock.DB, tenure stock.Claim) (row stock.Row, err error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if row, err = begin(t, db, tenure); !stock.IsRetryable(err) {
			break
		}
	}
	return row, err
}

// A process that stopped between a failed statement and its ROLLBACK holds the
// row. Its successor's claim gets through all the same, also when claims that wait
// have all of the pool.
func TestClaimEndsAnIdleTransactionInItsWay(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	db.SQL.SetMaxOpenConns(2) // one is the idle transaction's, the claim has the other
	idle, err := db.SQL.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	for _, query := range []string{"BEGIN", "UPDATE stock SET seq = seq + 1 WHERE sku = 'sku'"} {
		if _, err := idle.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	row, err := claimAnyhow(t, db, stock.Claim{SKU: "sku", Token: 5, Fence: strategy.FenceClaim})
	if err != nil {
		t.Fatal(err)
	}
	if row.Seq != 0 || row.Fence != 5 {
		t.Errorf("seq %d, fence %d; want 0 and 5", row.Seq, row.Fence)
	}
	if _, err := idle.ExecContext(t.Context(), "COMMIT"); err == nil {
		t.Error("the idle transaction committed")
	}
}
