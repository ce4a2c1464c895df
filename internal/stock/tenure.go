package stock

import (
	"context"
	"database/sql"
	"fmt"

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

// Batch names one attempt to write a batch. It is never used twice.
type Batch [16]byte

// Take is the statement that takes n units from the row as this tenure knows
// it, and leaves the batch's name there. It changes one row, or none where a
// newer writer was admitted.
func (t Tenure) Take(row Row, n int64, batch Batch) (query string, args []any) {
	sku := []byte(t.SKU)
	switch t.Fence {
	case strategy.FenceOff:
		return "UPDATE stock SET available = ?, seq = ?, batch = ?, updated_at = NOW(6) WHERE sku = ?",
			[]any{row.Available - n, row.Seq + 1, batch[:], sku}
	case strategy.FenceWrite:
		return "UPDATE stock SET available = ?, seq = ?, batch = ?, fence = ?, updated_at = NOW(6) WHERE sku = ? AND fence <= ?",
			[]any{row.Available - n, row.Seq + 1, batch[:], uint64(t.Token), sku, uint64(t.Token)}
	default: // FenceClaim
		return "UPDATE stock SET available = available - ?, seq = seq + 1, fence = ?, batch = ?, updated_at = NOW(6) " +
				"WHERE sku = ? AND fence = ? AND seq = ? AND available >= ?",
			[]any{n, uint64(t.Token), batch[:], sku, uint64(t.Token), row.Seq, n}
	}
}

// Admitted is the condition on the stock row s that holds in a transaction after
// the batch's Take changed it, and not otherwise: what else the transaction
// writes is joined to it. Comparing token and seq+1 would not do: whoever else
// moves seq by one, as Settle does, makes that true of a batch whose Take was
// refused.
func (t Tenure) Admitted(batch Batch) (condition string, args []any) {
	return "s.sku = ? AND s.batch = ?", []any{[]byte(t.SKU), batch[:]}
}

// Settle makes sure that no write of a transaction whose outcome is unknown can
// be applied from now on. It waits for the row's lock, which such a transaction
// holds while it runs, and moves seq, which such a transaction compares should
// it come later. What the transaction wrote is visible to conn from then on, or
// never; the caller reads it, then commits: that COMMIT also makes durable what
// was seen.
func Settle(ctx context.Context, conn *sql.Conn, sku string) error {
	moved, err := exec(ctx, conn, "UPDATE stock SET seq = seq + 1, updated_at = NOW(6) WHERE sku = ?", []byte(sku))
	if err != nil {
		return fmt.Errorf("move seq: %w", err)
	}
	if moved == 0 {
		return ErrUnknownSKU
	}
	return nil
}
