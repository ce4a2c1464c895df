package stock

import (
	"context"
	"database/sql"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/strategy"
)

// Claim is a desk's right to write one SKU's stock: the token of the lock that
// it holds, and the fence that MySQL checks it by.
type Claim struct {
	SKU   string
	Token lock.Token
	Fence strategy.Fence
}

// RecordedToken is the token that stands with what this tenure writes: none without
// a fence, which then says nothing about it.
func (t Claim) RecordedToken() lock.Token {
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
func (t Claim) Begin(ctx context.Context, db *DB) (row Row, err error) {
	query, args := selectRow, []any{[]byte(t.SKU)}
	if t.Fence == strategy.FenceClaim {
		query = writePrefix + "fence = ?, updated_at = NOW(6) WHERE sku = ? AND fence < ?; " + selectRow
		args = []any{uint64(t.Token), []byte(t.SKU), uint64(t.Token), []byte(t.SKU)}
	}
	read := func() error {
		return db.OnConn(ctx, func(conn *sql.Conn) (err error) {
			row, err = scanRow(conn.QueryRowContext(ctx, query, args...))
			return err
		})
	}
	if t.Fence == strategy.FenceClaim {
		err = db.Clearing(ctx, read)
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

// Settle begins a transaction which makes sure that no write of one whose outcome
// is unknown can be applied from then on. It waits for the row's lock, which such a
// transaction holds while it runs, and moves seq, which such a transaction compares
// should it come later. What the transaction wrote is visible behind Settle, or
// never. Whoever reads it commits in the same packet: that COMMIT also makes durable
// what was seen.
var Settle = "BEGIN; UPDATE stock SET seq = seq + 1, updated_at = NOW(6) WHERE sku = ?; " + Stop
