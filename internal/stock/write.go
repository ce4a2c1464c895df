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

// Writer takes units of one SKU inside a transaction of its caller, in one of the ways
// that strategies use for single orders. Not every way is correct on several replicas:
// see package strategy. A Writer is safe for concurrent use.
type Writer struct {
	// Way is ReadThenWrite, SelectForUpdate, Conditional, Version, or
	// EtcdCompareAndSwap after the take in etcd.
	Way strategy.Write
	// ThinkTime is a pause between reading and writing, for the laboratory: it makes an
	// existing race easy to see.
	ThinkTime time.Duration
	// LastLook, if set, is called before each write; its error ends the Take. ThinkTime
	// follows it, in place of a pause that no check can exclude.
	LastLook func() error
	// Saw, if set, is called with each row that was read before a write, and with missed
	// after a write that matched no row.
	Saw func(row *Row, missed bool)
}

const (
	selectRow = `SELECT sku, name, price_cents, currency, units, available, per_customer_limit, hold_policy,
		visible_from, sale_starts_at, sale_ends_at, withdrawn_at, fence, seq, NOW(6) FROM stock WHERE sku = ?`

	writeComputed    = `UPDATE stock SET available = ?, seq = ?, updated_at = NOW(6) WHERE sku = ? AND withdrawn_at IS NULL`
	writeConditional = `UPDATE stock SET available = available - ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ?`
)

// Take takes n units of sku and returns the new row. After ErrShort or ErrContended
// nothing was taken, and the row is the one that was read.
func (w Writer) Take(ctx context.Context, conn *sql.Conn, sku string, n int32) (Row, error) {
	switch w.Way {
	case strategy.ReadThenWrite, strategy.Version:
		return w.readThenWrite(ctx, conn, selectRow, sku, n)
	case strategy.SelectForUpdate:
		return w.readThenWrite(ctx, conn, selectRow+" FOR UPDATE", sku, n)
	case strategy.Conditional, strategy.EtcdCompareAndSwap:
		return w.writeThenRead(ctx, conn, sku, n)
	}
	return Row{}, fmt.Errorf("%q does not write single orders", w.Way)
}

const (
	// attempts bounds a compare-and-swap. Each failure means that another order
	// succeeded, so that many failures show contention that more attempts would only
	// increase.
	attempts = 100
	// backoff is the longest wait after a failed compare-and-swap. It is random, because
	// all losers were released by the same commit.
	backoff = 2 * time.Millisecond
)

// readThenWrite writes what it computed from the row that it read. It is correct only
// if something keeps other writers from reading in between, or if the write compares
// seq and is tried again (Version). Each way refuses a row that was withdrawn meanwhile.
// READ COMMITTED lets each attempt read the newest row; under REPEATABLE READ it would
// read the same one again.
func (w Writer) readThenWrite(ctx context.Context, conn *sql.Conn, read, sku string, n int32) (row Row, err error) {
	for range attempts {
		row, err = scanRow(conn.QueryRowContext(ctx, read, []byte(sku)))
		if err != nil {
			return row, err
		}
		w.saw(&row, false)
		if row.WithdrawnAt != nil {
			return row, ErrUnknownSKU
		}
		if row.Available < int64(n) {
			return row, ErrShort
		}
		if err := w.beforeWrite(ctx); err != nil {
			return row, err
		}
		write, args := writeComputed, []any{row.Available - int64(n), row.Seq + 1, []byte(sku)}
		if w.Way == strategy.Version {
			write, args = write+" AND seq = ?", append(args, row.Seq)
		}
		changed, err := exec(ctx, conn, write, args...)
		if err != nil {
			return row, fmt.Errorf("write stock: %w", err)
		}
		if changed == 1 {
			row.Available -= int64(n)
			row.Seq++
			return row, nil
		}
		w.saw(&row, true)
		if err := sleep.For(ctx, rand.N(backoff)); err != nil {
			return row, err
		}
	}
	return row, ErrContended
}

// writeThenRead lets the UPDATE decide. With EtcdCompareAndSwap, etcd has decided
// already, and the UPDATE only follows. The read afterwards sees the transaction's own
// write, on a row that is locked until COMMIT. If nothing was taken, the row is not
// locked, and units may have been returned before the read.
func (w Writer) writeThenRead(ctx context.Context, conn *sql.Conn, sku string, n int32) (row Row, err error) {
	write, args, before := writeConditional, []any{n, []byte(sku)}, w.beforeWrite
	if w.Way == strategy.Conditional {
		write, args, before = write+" AND available >= ?", append(args, n), w.look
	}
	for range attempts {
		if err := before(ctx); err != nil {
			return row, err
		}
		taken, err := exec(ctx, conn, write, args...)
		if err != nil {
			return row, fmt.Errorf("write stock: %w", err)
		}
		row, err = scanRow(conn.QueryRowContext(ctx, selectRow, []byte(sku)))
		if err != nil || taken == 1 {
			return row, err
		}
		w.saw(&row, true)
		if row.Available < int64(n) {
			return row, ErrShort
		}
	}
	return row, ErrContended
}

func (w Writer) beforeWrite(ctx context.Context) error {
	if err := w.look(ctx); err != nil {
		return err
	}
	return sleep.For(ctx, w.ThinkTime)
}

func (w Writer) look(context.Context) error {
	if w.LastLook == nil {
		return nil
	}
	return w.LastLook()
}

func (w Writer) saw(row *Row, missed bool) {
	if w.Saw != nil {
		w.Saw(row, missed)
	}
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
		&row.PerCustomerLimit, &row.HoldPolicy, &row.VisibleFrom, &row.SaleStartsAt, &row.SaleEndsAt, &row.WithdrawnAt, &row.Fence, &row.Seq, &row.Now)
	if errors.Is(err, sql.ErrNoRows) {
		return row, ErrUnknownSKU
	}
	if err != nil {
		return row, fmt.Errorf("read stock: %w", err)
	}
	return row, nil
}
