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

// take takes n units in one transaction.
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

func TestTakeOfAnUnknownSKU(t *testing.T) {
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

// Nothing is taken of a SKU that was withdrawn after it was read.
func TestTakeOfAWithdrawnSKU(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	rows := map[strategy.Fence]stock.Row{}
	for token, fence := range []strategy.Fence{strategy.FenceOff, strategy.FenceWrite, strategy.FenceClaim} {
		row, err := begin(t, db, stock.Claim{SKU: "sku", Token: lock.Token(token), Fence: fence})
		if err != nil {
			t.Fatal(err)
		}
		rows[fence] = row
	}
	if withdrawn, err := db.Withdraw(t.Context(), "sku", nil); err != nil || !withdrawn {
		t.Fatalf("withdrawn %v, error %v", withdrawn, err)
	}
	for fence, row := range rows {
		if got := apply(t, db, stock.Claim{SKU: "sku", Token: 2, Fence: fence}, row, 1); got != 0 {
			t.Errorf("fence %s: the write changed %d rows", fence, got)
		}
	}
	for _, way := range []strategy.Write{strategy.ReadThenWrite, strategy.SelectForUpdate, strategy.Version} {
		if _, err := take(t.Context(), db, way, 1); !errors.Is(err, stock.ErrUnknownSKU) {
			t.Errorf("%s: got %v, want %v", way, err, stock.ErrUnknownSKU)
		}
	}
}

// The ways that need no lock are exact with concurrent writers.
func TestExactWaysNeverTakeTooMuch(t *testing.T) {
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
					for stock.IsRetryable(err) { // it waited for other commits for more than a second
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
				t.Errorf("took %d units, want 10", n)
			}
		})
	}
}

// apply takes n units at the time when the row was read.
func apply(t *testing.T, db *stock.DB, claim stock.Claim, row stock.Row, n int64) int64 {
	t.Helper()
	return applyAt(t, db, claim, row, n, row.Now)
}

// applyAt takes n units for orders of the time when the row was read, while the
// database's clock is at now.
func applyAt(t *testing.T, db *stock.DB, claim stock.Claim, row stock.Row, n int64, now time.Time) (changed int64) {
	t.Helper()
	err := db.OnConn(t.Context(), func(conn *sql.Conn) error {
		query := fmt.Sprintf("SET @@timestamp = %d.%06d; ", now.Unix(), now.Nanosecond()/1000) +
			stock.Take{Claim: claim, Row: row, Units: n, At: row.Now}.Statement()
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

func begin(t *testing.T, db *stock.DB, claim stock.Claim) (stock.Row, error) {
	t.Helper()
	return claim.Read(t.Context(), db)
}

// A holder reads, is paused, and writes after its successor has read. The three fences
// differ in what happens then.
func TestStaleHolderUnderEachFence(t *testing.T) {
	t.Parallel()
	tests := []struct {
		fence strategy.Fence
		// stale is how many rows the old holder's write changes after the new holder's
		// read. Each takes 1 of 10 units, and in the end 9 are available: with a stale
		// write of 1 row an update was lost.
		stale int64
	}{
		{strategy.FenceOff, 1},
		{strategy.FenceWrite, 1},
		{strategy.FenceClaim, 0},
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
			if row.Available != 9 {
				t.Errorf("%d available, want 9", row.Available)
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

// A change by another writer, under the same token, makes the remembered row stale.
func TestStaleRowIsFenced(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	claim := stock.Claim{SKU: "sku", Token: 5, Fence: strategy.FenceClaim}
	row, err := begin(t, db, claim)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Change(t.Context(), row.Stock, nil); err != nil {
		t.Fatal(err)
	}
	if got := apply(t, db, claim, row, 1); got != 0 {
		t.Errorf("a write from a stale row changed %d rows, want 0", got)
	}
}

// The clock that a desk extrapolates differs from the database's after the host was
// suspended, or after a step of the database's clock.
func TestOrdersOfAnotherTimeTakeNothing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		fence  strategy.Fence
		ahead  time.Duration // the database's clock
		starts time.Duration // of the sale, relative to the desk's clock; zero means an hour before
		ends   time.Duration // likewise; zero means an hour after
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
			claim := stock.Claim{SKU: "sku", Token: 5, Fence: test.fence}
			row, err := begin(t, db, claim)
			if err != nil {
				t.Fatal(err)
			}
			row.Now = now
			if got := applyAt(t, db, claim, row, 1, now.Add(test.ahead)); got != test.want {
				t.Errorf("the write changed %d rows, want %d", got, test.want)
			}
		})
	}
}

// beginRetrying retries a claim as a desk does: it fails if this process was paused while
// it looked for the blocker.
func beginRetrying(t *testing.T, db *stock.DB, claim stock.Claim) (row stock.Row, err error) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if row, err = begin(t, db, claim); !stock.IsRetryable(err) {
			break
		}
	}
	return row, err
}

// A process that stopped between a failed statement and its ROLLBACK locks the row. Its
// successor's claim succeeds, even if waiting claims use the whole pool.
func TestClaimEndsAnIdleTransactionInItsWay(t *testing.T) {
	t.Parallel()
	db := newDB(t)
	db.SQL.SetMaxOpenConns(2) // one for the idle transaction, one for the claim
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
	row, err := beginRetrying(t, db, stock.Claim{SKU: "sku", Token: 5, Fence: strategy.FenceClaim})
	if err != nil {
		t.Fatal(err)
	}
	if row.Seq != 0 || row.Fence != 5 {
		t.Errorf("seq %d, fence %d; want 0 and 5", row.Seq, row.Fence)
	}
	if _, err := idle.ExecContext(t.Context(), "COMMIT"); err == nil {
		t.Error("the idle transaction committed, want its connection killed")
	}
}
