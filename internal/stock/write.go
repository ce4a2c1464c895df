package stock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"flashsale/internal/sleep"
	"flashsale/internal/strategy"
)

// Writer takes units of one SKU inside a transaction of its caller's, in one of
// the ways that the registry knows for single orders. It is safe for concurrent
// use. Which ways are right, and on how many replicas, is what they show.
type Writer struct {
	// Way is ReadThenWrite, SelectForUpdate, Conditional, Version, or
	// EtcdCompareAndSwap behind the take in etcd.
	Way strategy.Write
	// ThinkTime is a pause between reading and writing, for the lab: it makes a
	// race that is there anyway easy to see.
	ThinkTime time.Duration
	// LastLook, where set, is asked before anything is written; its error ends
	// the Take. The pause comes behind it: it stands for what no look can see.
	LastLook func() error
}

const (
	selectRow = `SELECT sku, name, price_cents, currency, units, available, per_customer_limit,
		sale_starts_at, sale_ends_at, fence, seq, NOW(6) FROM stock WHERE sku = ?`

	writeComputed    = `UPDATE stock SET available = ?, seq = ?, updated_at = NOW(6) WHERE sku = ?`
	writeConditional = `UPDATE stock SET available = available - ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ? AND available >= ?`
	writeFollowing   = `UPDATE stock SET available = available - ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ?`
	writeVersion     = `UPDATE stock SET available = ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ? AND seq = ?`
)

// Take takes n units of sku and returns the row as it then stands. With ErrShort
// or ErrContended nothing was taken, and the row is the one that was read.
func (w Writer) Take(ctx context.Context, conn *sql.Conn, sku string, n int32) (Row, error) {
	switch w.Way {
	case strategy.ReadThenWrite:
		return w.readThenWrite(ctx, conn, selectRow, sku, n)
	case strategy.SelectForUpdate:
		return w.readThenWrite(ctx, conn, selectRow+" FOR UPDATE", sku, n)
	case strategy.Conditional:
		return w.conditional(ctx, conn, sku, n)
	case strategy.EtcdCompareAndSwap:
		return w.follow(ctx, conn, sku, n)
	case strategy.Version:
		return w.version(ctx, conn, sku, n)
	}
	return Row{}, fmt.Errorf("no single order is written by %q", w.Way)
}

// readThenWrite writes what it computed from what it read. Only what keeps
// others from reading in between makes it right.
func (w Writer) readThenWrite(ctx context.Context, conn *sql.Conn, read, sku string, n int32) (Row, error) {
	row, err := scanRow(conn.QueryRowContext(ctx, read, []byte(sku)))
	if err != nil {
		return row, err
	}
	if row.Available < int64(n) {
		return row, ErrShort
	}
	if err := w.beforeWrite(ctx); err != nil {
		return row, err
	}
	row.Available -= int64(n)
	row.Seq++
	if _, err := conn.ExecContext(ctx, writeComputed, row.Available, row.Seq, []byte(sku)); err != nil {
		return row, fmt.Errorf("write stock: %w", err)
	}
	return row, nil
}

// conditional lets the row decide. The read comes second: it sees the
// transaction's own write, on a row that is locked until COMMIT. Where nothing was
// taken, no lock is held, and units may have come back before the read.
func (w Writer) conditional(ctx context.Context, conn *sql.Conn, sku string, n int32) (Row, error) {
	var row Row
	for range versionAttempts {
		if err := w.look(); err != nil {
			return row, err
		}
		taken, err := exec(ctx, conn, writeConditional, n, []byte(sku), n)
		if err != nil {
			return row, fmt.Errorf("write stock: %w", err)
		}
		row, err = scanRow(conn.QueryRowContext(ctx, selectRow, []byte(sku)))
		if err != nil || taken == 1 {
			return row, err
		}
		if row.Available < int64(n) {
			return row, ErrShort
		}
	}
	return row, ErrContended
}

// follow takes units that were taken in etcd already: the row is a copy, and does
// not decide.
func (w Writer) follow(ctx context.Context, conn *sql.Conn, sku string, n int32) (Row, error) {
	if err := w.beforeWrite(ctx); err != nil {
		return Row{}, err
	}
	if _, err := exec(ctx, conn, writeFollowing, n, []byte(sku)); err != nil {
		return Row{}, fmt.Errorf("write stock: %w", err)
	}
	return scanRow(conn.QueryRowContext(ctx, selectRow, []byte(sku)))
}

const (
	// versionAttempts bounds the compare-and-swap. Each failure means that
	// another order got through, so a caller who loses this often meets
	// contention that only less load can end.
	versionAttempts = 100
	// versionBackoff is the longest wait after a lost compare-and-swap; it
	// spreads the losers, who all woke at the same commit.
	versionBackoff = 2 * time.Millisecond
)

// version compares the row's seq. READ COMMITTED lets each attempt read the
// newest row; under REPEATABLE READ it would read the same one for ever.
func (w Writer) version(ctx context.Context, conn *sql.Conn, sku string, n int32) (Row, error) {
	var row Row
	for range versionAttempts {
		var err error
		row, err = scanRow(conn.QueryRowContext(ctx, selectRow, []byte(sku)))
		if err != nil {
			return row, err
		}
		if row.Available < int64(n) {
			return row, ErrShort
		}
		if err := w.beforeWrite(ctx); err != nil {
			return row, err
		}
		swapped, err := exec(ctx, conn, writeVersion, row.Available-int64(n), []byte(sku), row.Seq)
		if err != nil {
			return row, fmt.Errorf("write stock: %w", err)
		}
		if swapped == 1 {
			row.Available -= int64(n)
			row.Seq++
			return row, nil
		}
		if err := sleep.For(ctx, rand.N(versionBackoff)); err != nil {
			return row, err
		}
	}
	return row, ErrContended
}

func (w Writer) beforeWrite(ctx context.Context) error {
	if err := w.look(); err != nil {
		return err
	}
	return Think(ctx, w.ThinkTime)
}

func (w Writer) look() error {
	if w.LastLook == nil {
		return nil
	}
	return w.LastLook()
}

// Think is a ThinkTime, or none.
func Think(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	return sleep.For(ctx, d)
}

func exec(ctx context.Context, conn *sql.Conn, query string, args ...any) (int64, error) {
	result, err := conn.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func scanRow(from *sql.Row) (Row, error) {
	var row Row
	err := from.Scan(&row.SKU, &row.Name, &row.PriceCents, &row.Currency, &row.Units, &row.Available,
		&row.PerCustomerLimit, &row.SaleStartsAt, &row.SaleEndsAt, &row.Fence, &row.Seq, &row.Now)
	if errors.Is(err, sql.ErrNoRows) {
		return row, ErrUnknownSKU
	}
	if err != nil {
		return row, fmt.Errorf("read stock: %w", err)
	}
	return row, nil
}
