package testbed

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/google/uuid"
)

// execer is a connection or a pool.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// insertOrder writes an order that was admitted at seq with a token.
func insertOrder(ctx context.Context, db execer, customer string, n int64, token, seq uint64) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
		status, fence, seq, created_at, expires_at)
		VALUES (?, ?, ?, ?, REPEAT('0', 32), ?, ?, 'EUR', 'reserved', ?, ?, NOW(6), NOW(6) + INTERVAL 15 MINUTE)`,
		id[:], []byte(SKU), []byte(customer), []byte(id.String()), n, priceCents, token, seq)
	return err
}

// Sell decides by what was read last, and writes what it computed from it: the
// usual code. It says whether the order was taken.
func (b *Buyer) Sell(n int64) bool {
	if b.seen.available < n {
		b.Says("refuses the order: %s wanted, %d left", Units(n), b.seen.available)
		b.shop.refuseAt(b.Name, n, "sold out", b.seen.seq)
		return false
	}
	b.play.Check(b.sell(b.play.ctx, n))
	b.Says("%s", b.sold(n))
	return true
}

// BeginsSale begins to write an order on a row that another has locked, and
// returns once the statement waits for it.
func (b *Buyer) BeginsSale(n int64) *Step {
	step := b.Begins(fmt.Sprintf("writes the stock: %d, and has to wait for the row", b.seen.available-n),
		func(ctx context.Context) error { return b.sell(ctx, n) })
	b.Waits(step)
	return step
}

// HasSold writes down that a sale which had to wait has gone through.
func (b *Buyer) HasSold(step *Step, n int64) {
	step.Ends()
	b.Says("%s", b.sold(n))
}

func (b *Buyer) sold(n int64) string {
	return fmt.Sprintf("sells %s, and writes the stock: %d", Units(n), b.seen.available-n)
}

func (b *Buyer) sell(ctx context.Context, n int64) error {
	_, err := b.Conn.ExecContext(ctx, "UPDATE stock SET available = ?, seq = ?, updated_at = NOW(6) WHERE sku = ?",
		b.seen.available-n, b.seen.seq+1, []byte(SKU))
	if err != nil {
		return fmt.Errorf("write the stock: %w", err)
	}
	return insertOrder(ctx, b.Conn, b.Name, n, 0, b.seen.seq+1)
}

// SellConditionally lets the row decide: one UPDATE that refuses itself.
func (b *Buyer) SellConditionally(n int64) bool {
	result, err := b.Conn.ExecContext(b.play.ctx,
		"UPDATE stock SET available = available - ?, seq = seq + 1, updated_at = NOW(6) WHERE sku = ? AND available >= ?", n, []byte(SKU), n)
	b.play.Check(err)
	changed, err := result.RowsAffected()
	b.play.Check(err)
	// In the same transaction, or with nobody in between, as here: the script says
	// who is next.
	b.play.Check(b.read(b.play.ctx, plainRead))
	if changed == 0 {
		b.Says("UPDATE ... WHERE available >= %d changes no row: refuses the order", n)
		b.shop.refuseAt(b.Name, n, "sold out", b.seen.seq)
		return false
	}
	b.play.Check(insertOrder(b.play.ctx, b.Conn, b.Name, n, 0, b.seen.seq))
	b.Says("UPDATE ... WHERE available >= %d changes the row: sells %s", n, Units(n))
	return true
}

// refuseAt notes a refusal by a row as it was at seq.
func (s *Shop) refuseAt(who string, n int64, why string, seq uint64) {
	s.refused = append(s.refused, refusal{who: who, n: n, seq: seq, why: why})
}
