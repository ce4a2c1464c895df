package stock

import (
	"context"
	"database/sql"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/strategy"
)

// Claim is the right to write one SKU's stock during one grant of its lock: the
// grant's token, and the fence by which MySQL checks it.
type Claim struct {
	SKU   string
	Token lock.Token
	Fence strategy.Fence
}

// RecordedToken is the token that orders under this claim record. Without a fence
// it is 0: MySQL does not check the token then.
func (c Claim) RecordedToken() lock.Token {
	if c.Fence == strategy.FenceOff {
		return 0
	}
	return c.Token
}

// Read reads the row. With FenceClaim it first registers the token: MySQL then
// refuses the writes of older holders, so that the row stays as read until this
// claim writes. A fence that is only compared when writing would admit a stale
// write between this read and the first write.
//
// Both statements go in one packet and each commits by itself: a process that
// stops here holds no row lock against its successor. Read returns ErrFenced if
// the row has a newer token.
func (c Claim) Read(ctx context.Context, db *DB) (row Row, err error) {
	query, args := selectRow, []any{[]byte(c.SKU)}
	if c.Fence == strategy.FenceClaim {
		query = writePrefix + "fence = ?, updated_at = NOW(6) WHERE sku = ? AND fence < ?; " + selectRow
		args = []any{uint64(c.Token), []byte(c.SKU), uint64(c.Token), []byte(c.SKU)}
	}
	read := func() error {
		return db.OnConn(ctx, func(conn *sql.Conn) (err error) {
			row, err = scanRow(conn.QueryRowContext(ctx, query, args...))
			return err
		})
	}
	if c.Fence == strategy.FenceClaim {
		err = db.EndingBlockers(ctx, read)
	} else {
		err = read()
	}
	if err != nil {
		return row, fmt.Errorf("claim %s: %w", c.SKU, err)
	}
	return row, c.Check(row)
}

// Check returns ErrFenced if the row that Read has read has a newer token.
func (c Claim) Check(row Row) error {
	if c.Fence != strategy.FenceOff && row.Fence > uint64(c.Token) {
		return fmt.Errorf("claim %s with token %d, the newest is %d: %w", c.SKU, c.Token, row.Fence, ErrFenced)
	}
	return nil
}

// Settle begins a transaction after which a write whose outcome is unknown can no
// longer be applied. It waits for the row's lock, which that write holds while it
// runs, and moves seq, which that write compares if it arrives later. After Settle
// the write's rows are visible, or never will be. Read them and commit in the same
// packet: that COMMIT also makes durable what was read.
var Settle = "BEGIN; UPDATE stock SET seq = seq + 1, updated_at = NOW(6) WHERE sku = ?; " + Stop
