package testbed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/stock"
)

// lockWait bounds a statement's wait for a row, in seconds. The service allows one
// second; on a busy machine a script needs longer to observe the wait.
const lockWait = 10

// Buyer is a request for units, served on a connection of its own.
type Buyer struct {
	*Actor
	Conn *sql.Conn
	// Server is the one that it is connected to, for To.
	Server string

	shop *Shop
	id   int64 // the server's, of the connection
	// The stock row as it was last read.
	available int64
	seq       uint64
}

// Buyer adds a buyer.
func (s *Shop) Buyer(name string) *Buyer { return s.On(s.run.Actor(name).as(IsBuyer)) }

// On gives an actor a connection.
func (s *Shop) On(a *Actor) *Buyer { return s.connect(a, s.DB, MySQL) }

// BuyerAt adds a buyer that is connected to a node of Galera, counted from 0.
func (s *Shop) BuyerAt(node int, name string) *Buyer {
	db := s.run.Open(s.run.Galera().Nodes[node].DSN(s.run.Name))
	return s.connect(s.run.Actor(name).as(IsBuyer), db, fmt.Sprintf("%s node %d", Galera, node+1))
}

func (s *Shop) connect(a *Actor, db *stock.DB, server string) *Buyer {
	conn, err := db.SQL.Conn(s.run.ctx)
	s.run.Check(err)
	b := &Buyer{Actor: a, Conn: conn, Server: server, shop: s}
	s.run.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = conn.ExecContext(ctx, "ROLLBACK") // of a transaction that a failed script left open
		if err := conn.Close(); !errors.Is(err, sql.ErrConnDone) {
			return err
		}
		return nil
	})
	b.Exec("SET innodb_lock_wait_timeout = ?", lockWait)
	s.run.Check(conn.QueryRowContext(s.run.ctx, "SELECT CONNECTION_ID()").Scan(&b.id))
	return b
}

// Exec runs a statement on the buyer's connection and returns how many rows it
// changed. It writes no line to the log.
func (b *Buyer) Exec(query string, args ...any) (changed int64) {
	result, err := b.Conn.ExecContext(b.run.ctx, query, args...)
	b.run.Check(err)
	changed, err = result.RowsAffected()
	b.run.Check(err)
	return changed
}

// Isolation sets the isolation level of later transactions. The default is the
// service's own, READ COMMITTED.
func (b *Buyer) Isolation(level string) { b.Exec("SET SESSION TRANSACTION ISOLATION LEVEL " + level) }

// Begin begins a transaction.
func (b *Buyer) Begin() { b.logExec(Note, "BEGIN") }

// Commit commits it.
func (b *Buyer) Commit() { b.logExec(Commit, "COMMIT") }

// Rollback rolls it back.
func (b *Buyer) Rollback() { b.logExec(Commit, "ROLLBACK") }

// End commits the transaction if the order was accepted, and rolls it back otherwise.
func (b *Buyer) End(accepted bool) {
	if accepted {
		b.Commit()
	} else {
		b.Rollback()
	}
}

func (b *Buyer) logExec(kind Kind, statement string) {
	b.To(b.Server, kind).Log("%s", statement)
	b.Exec(statement)
}

// The ways to read the stock row.
const (
	plainRead   = "SELECT available, seq FROM stock WHERE sku = ?"
	lockingRead = plainRead + " FOR UPDATE"
)

// Read reads the stock row. The buyer's next write relies on what it read last.
func (b *Buyer) Read() int64 {
	b.run.Check(b.read(b.run.ctx, plainRead))
	b.To(b.Server, Read).Log("reads the stock: %s", Units(b.available))
	return b.available
}

// ReadForUpdate reads and locks the stock row, which is not locked.
func (b *Buyer) ReadForUpdate() int64 {
	b.run.Check(b.read(b.run.ctx, lockingRead))
	b.To(b.Server, Read).Log("reads the stock FOR UPDATE: %s", Units(b.available))
	return b.available
}

// StartReadForUpdate reads the stock row FOR UPDATE while another transaction has
// it locked, and returns once the statement waits.
func (b *Buyer) StartReadForUpdate() *Step {
	step := b.To(b.Server, Read).Start("reads the stock FOR UPDATE and waits", func(ctx context.Context) error { return b.read(ctx, lockingRead) })
	b.AwaitRowLock(step)
	return step
}

// FinishRead waits for the end of a read that had to wait, and logs its result.
func (b *Buyer) FinishRead(step *Step) int64 {
	step.Finish()
	b.To(b.Server, Read).Log("now reads the stock: %s", Units(b.available))
	return b.available
}

func (b *Buyer) read(ctx context.Context, query string) error {
	return b.Conn.QueryRowContext(ctx, query, []byte(SKU)).Scan(&b.available, &b.seq)
}

// AwaitRowLock returns once InnoDB reports that the buyer's transaction waits for
// a lock.
func (b *Buyer) AwaitRowLock(step *Step) {
	b.run.Until(b.Name+" waits for a row", func(ctx context.Context) (waits bool, err error) {
		step.MustBlock()
		err = b.shop.DB.SQL.QueryRowContext(ctx, `SELECT COUNT(*) > 0 FROM information_schema.INNODB_TRX
			WHERE trx_mysql_thread_id = ? AND trx_state = 'LOCK WAIT'`, b.id).Scan(&waits)
		return waits, err
	})
}

// ReadAndSell reads the stock and sells one unit.
func (b *Buyer) ReadAndSell() bool {
	b.Read()
	return b.Sell(1)
}

// Sell decides on the stock that was read last, and writes the result of its
// subtraction: the usual code. It reports whether the order was accepted.
func (b *Buyer) Sell(n int64) bool {
	if b.available < n {
		b.To("", Refuse).Log("refuses the order: %s requested, %d left", Units(n), b.available)
		b.shop.refuseAt(b.Name, n, "sold out", b.seq)
		return false
	}
	b.run.Check(b.sell(b.run.ctx, n))
	b.logSold(n)
	return true
}

// StartSell writes an order while another transaction has the row locked, and
// returns once the statement waits.
func (b *Buyer) StartSell(n int64) *Step {
	step := b.To(b.Server, Write).Start(fmt.Sprintf("writes the stock: %d, and waits for the row", b.available-n),
		func(ctx context.Context) error { return b.sell(ctx, n) })
	b.AwaitRowLock(step)
	return step
}

// FinishSell waits for the end of a sale that had to wait, and logs it.
func (b *Buyer) FinishSell(step *Step, n int64) {
	step.Finish()
	b.logSold(n)
}

func (b *Buyer) logSold(n int64) {
	b.To(b.Server, Write).Log("sells %s and writes the stock: %d", Units(n), b.available-n)
}

func (b *Buyer) sell(ctx context.Context, n int64) error {
	_, err := b.Conn.ExecContext(ctx, "UPDATE stock SET available = ?, seq = ?, updated_at = NOW(6) WHERE sku = ?",
		b.available-n, b.seq+1, []byte(SKU))
	if err != nil {
		return fmt.Errorf("write the stock: %w", err)
	}
	return insertOrder(ctx, b.Conn, b.Name, n, 0, b.seq+1)
}

// SellConditionally sells one unit with a conditional UPDATE, which decides.
func (b *Buyer) SellConditionally() {
	changed := b.Exec("UPDATE stock SET available = available - 1, seq = seq + 1, updated_at = NOW(6) WHERE sku = ? AND available >= 1", []byte(SKU))
	b.run.Check(b.read(b.run.ctx, plainRead)) // the script lets nobody write in between
	if changed == 0 {
		b.To(b.Server, Refuse).Log("UPDATE ... WHERE available >= 1 changes no row: refuses the order")
		b.shop.refuseAt(b.Name, 1, "sold out", b.seq)
		return
	}
	b.run.Check(insertOrder(b.run.ctx, b.Conn, b.Name, 1, 0, b.seq))
	b.To(b.Server, Write).Log("UPDATE ... WHERE available >= 1 changes the row: sells 1 unit")
}
