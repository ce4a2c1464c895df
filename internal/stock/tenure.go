package stock

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/strategy"
)

// Tenure is a desk's right to write one SKU's stock: the token of the lock that
// it holds, and the fence that MySQL checks it by. Its methods make the
// statements; the transaction is the caller's.
type Tenure struct {
	SKU   string
	Token lock.Token
	Fence strategy.Fence
}

// Recorded is the token that stands with what this tenure writes: none without
// a fence, which then says nothing about it.
func (t Tenure) Recorded() lock.Token {
	if t.Fence == strategy.FenceOff {
		return 0
	}
	return t.Token
}

// Begin reads the row at the beginning of a tenure. Behind FenceClaim it first
// registers the token: from then on no older holder's write is admitted, so what
// is read stays true until this tenure writes. A fence that is only compared
// when writing would let a stale write in between this read and the first write.
//
// Both statements go in one packet and each commits by itself: a process that
// stops here holds no row lock against its successor. A newer token in the row
// is ErrFenced.
func (t Tenure) Begin(ctx context.Context, db *DB) (row Row, err error) {
	query, args := selectRow, []any{[]byte(t.SKU)}
	if t.Fence == strategy.FenceClaim {
		query = claimPrefix + "?, updated_at = NOW(6) WHERE sku = ? AND fence < ?; " + selectRow
		args = []any{uint64(t.Token), []byte(t.SKU), uint64(t.Token), []byte(t.SKU)}
	}
	read := func() error {
		return db.OnConn(ctx, func(conn *sql.Conn) (err error) {
			row, err = scanRow(conn.QueryRowContext(ctx, query, args...))
			return err
		})
	}
	if t.Fence == strategy.FenceClaim {
		err = db.clearing(ctx, read)
	} else {
		err = read()
	}
	if err != nil {
		return row, fmt.Errorf("claim %s: %w", t.SKU, err)
	}
	if t.Fence != strategy.FenceOff && row.Fence > uint64(t.Token) {
		return row, fmt.Errorf("claim %s with token %d, the newest is %d: %w", t.SKU, t.Token, row.Fence, ErrFenced)
	}
	return row, nil
}

// Take is the statement that takes n units from the row as this tenure knows it,
// for orders that are made at a time by the database's clock. It changes one row,
// or none where Admits does not hold: Stop must follow it. It has no arguments: the
// driver would look for their places in all of the batch's text.
func (t Tenure) Take(row Row, n int64, at time.Time) string {
	set := fmt.Sprintf("available = %d, seq = %d", row.Available-n, row.Seq+1)
	switch t.Fence {
	case strategy.FenceOff:
	case strategy.FenceWrite:
		set += fmt.Sprintf(", fence = %d", t.Token)
	default: // FenceClaim
		set = fmt.Sprintf("available = available - %d, seq = seq + 1, fence = %d", n, t.Token)
	}
	return "UPDATE stock SET " + set + ", updated_at = NOW(6) WHERE " + t.Admits(row, n, at)
}

// ClockTolerance is how far the time of a batch's orders may be from the database's
// when they are written. A tenure extrapolates the database's clock by its own,
// which stands still while the host is suspended, and knows of no step of the
// other. It is longer than a batch waits for the transaction before it, and far
// shorter than any payment window.
const ClockTolerance = 3 * time.Second

// Admits is the condition of Take on the stock row and the database's clock. Behind
// FenceClaim the sale must be open, and the orders' time near the database's. The
// row's window is the one that the tenure knows, as long as seq is. The SKU is
// written in hexadecimal digits, in which nothing has to be escaped.
func (t Tenure) Admits(row Row, n int64, at time.Time) string {
	switch t.Fence {
	case strategy.FenceOff:
		return fmt.Sprintf("sku = x'%x'", t.SKU)
	case strategy.FenceWrite:
		return fmt.Sprintf("sku = x'%x' AND fence <= %d", t.SKU, t.Token)
	default: // FenceClaim
		from, until := at.Add(-ClockTolerance), at.Add(ClockTolerance)
		if row.SaleStartsAt != nil && row.SaleStartsAt.After(from) {
			from = *row.SaleStartsAt
		}
		if row.SaleEndsAt != nil && row.SaleEndsAt.Before(until) {
			until = *row.SaleEndsAt
		}
		return fmt.Sprintf("sku = x'%x' AND fence = %d AND seq = %d AND available >= %d AND NOW(6) >= '%s' AND NOW(6) < '%s'",
			t.SKU, t.Token, row.Seq, n, from.UTC().Format(DateTime), until.UTC().Format(DateTime))
	}
}

// DateTime is the form of a DATETIME(6) in a statement's text.
const DateTime = "2006-01-02 15:04:05.000000"

// Stop is the statement that fails, with an error that IsStopped knows, unless
// the statement before it changed one row. The server leaves out what follows in
// the same packet; the transaction stays open until ROLLBACK.
//
// It assigns a variable, since MariaDB's DO succeeds whatever error it meets.
const Stop = "SET @stop = IF(ROW_COUNT() = 1, 0, (SELECT 1 UNION SELECT 2))"

// errManyRows is the error of a subquery that has two rows where one can be.
const errManyRows = 1242

// IsStopped reports whether err is that of Stop.
func IsStopped(err error) bool { return serverError(err) == errManyRows }

// Settle begins a transaction which makes sure that no write of one whose outcome
// is unknown can be applied from then on. It waits for the row's lock, which such a
// transaction holds while it runs, and moves seq, which such a transaction compares
// should it come later. What the transaction wrote is visible behind Settle, or
// never. Whoever reads it commits in the same packet: that COMMIT also makes durable
// what was seen.
const Settle = "BEGIN; UPDATE stock SET seq = seq + 1, updated_at = NOW(6) WHERE sku = ?; " + Stop
