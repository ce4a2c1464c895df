package testbed

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
)

// SKU is what every shop sells.
const SKU = "sneaker"

const priceCents = 9900

// lockWait bounds a statement's wait for a row, in seconds. It is longer than
// the second that the service allows: on a busy machine a script needs some time
// to see that a statement waits.
const lockWait = 10

// Shop is a database with the service's own tables and one SKU on sale.
type Shop struct {
	DB *stock.DB

	play    *Play
	dsn     string
	refused []refusal
}

// refusal is an order that was refused when the row stood at seq.
type refusal struct {
	who string
	n   int64
	seq uint64
	why string
}

// Shop puts units on sale.
func (p *Play) Shop(units int64) *Shop { return p.ShopOn(p.MySQL(), units) }

// ShopOn puts units on sale on one server.
func (p *Play) ShopOn(server *sandbox.MySQL, units int64) *Shop {
	dsn, err := server.CreateDatabase(p.ctx, p.Name)
	p.Check(err)
	db, err := stock.Open(dsn, 16)
	p.Check(err)
	p.Cleanup(db.Close)
	p.Check(db.Migrate(p.ctx))
	_, err = db.Create(p.ctx, stock.Stock{SKU: SKU, Name: "Sneaker", PriceCents: priceCents, Currency: "EUR", Units: units})
	p.Check(err)
	return &Shop{DB: db, play: p, dsn: dsn}
}

// Exec changes the shop's database from outside of the story.
func (s *Shop) Exec(query string, args ...any) {
	_, err := s.DB.SQL.ExecContext(s.play.ctx, query, args...)
	s.play.Check(err)
}

// Available is what the stock row says now.
func (s *Shop) Available() int64 {
	row, err := s.DB.Get(s.play.ctx, SKU)
	s.play.Check(err)
	return row.Available
}

// Refuse notes that an order was refused. The audit then asks whether it had to be.
func (s *Shop) Refuse(who string, n int64, why string) {
	row, err := s.DB.Get(s.play.ctx, SKU)
	s.play.Check(err)
	s.refused = append(s.refused, refusal{who: who, n: n, seq: row.Seq, why: why})
}

// Audit is the service's own, of the whole database, and besides it invariant 7:
// that no units remain which somebody was refused after the last change of stock.
func (s *Shop) Audit() Audit {
	report, err := stock.Audit(s.play.ctx, s.DB)
	s.play.Check(err)
	b := report.SKUs[0]
	sold := b.Reserved + b.Paid
	sum := fmt.Sprintf("%s on sale = %d available + %d sold", Units(b.Units), b.Available, sold)
	audit := Audit{OK: report.OK, Text: []string{sum}}
	if b.Units != b.Available+sold {
		audit.Text[0] = fmt.Sprintf("%s on sale, but %d available + %d sold", Units(b.Units), b.Available, sold)
	}
	for _, v := range report.Violations {
		broken := v.Invariant
		if broken == stock.Conservation {
			switch {
			case b.Oversold > 0:
				broken += ": oversold by " + Units(b.Oversold)
			case b.Units > b.Available+sold:
				broken += ": " + Units(b.Units-b.Available-sold) + " lost"
			default:
				broken += ": " + Units(b.Available+sold-b.Units) + " too many"
			}
		} else {
			broken += ": " + v.Detail
		}
		audit.Text = append(audit.Text, "broken: "+broken)
	}
	now, err := s.DB.Get(s.play.ctx, SKU)
	s.play.Check(err)
	for _, r := range s.refused {
		if r.seq == now.Seq && now.Available >= r.n {
			audit.OK = false
			audit.Text = append(audit.Text,
				fmt.Sprintf("broken: nothing is left unsold: %s was refused (%s), and %s stayed on the shelf", r.who, r.why, Units(now.Available)))
		}
	}
	return audit
}

// Buyer is a request for units, served on a connection of its own.
type Buyer struct {
	*Actor
	Conn *sql.Conn

	shop *Shop
	id   int64 // the server's, of the connection
	tx   bool  // a transaction is open
	seen seen
}

// seen is the stock row as a buyer has read it last.
type seen struct {
	available int64
	seq       uint64
}

// Buyer brings one on.
func (s *Shop) Buyer(name string) *Buyer { return s.On(s.play.Actor(name)) }

// On gives an actor a connection.
func (s *Shop) On(a *Actor) *Buyer { return s.over(a, s.DB) }

// BuyerAt brings one on whose connection is to another server of the same database.
func (s *Shop) BuyerAt(server *sandbox.MySQL, name string) *Buyer {
	db, err := stock.Open(server.DSN(s.play.Name), 16)
	s.play.Check(err)
	s.play.Cleanup(db.Close)
	return s.over(s.play.Actor(name), db)
}

func (s *Shop) over(a *Actor, db *stock.DB) *Buyer {
	conn, err := db.SQL.Conn(s.play.ctx)
	s.play.Check(err)
	b := &Buyer{Actor: a, Conn: conn, shop: s}
	s.play.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, _ = conn.ExecContext(ctx, "ROLLBACK") // of what a failed script has left open
		if err := conn.Close(); !errors.Is(err, sql.ErrConnDone) {
			return err
		}
		return nil
	})
	b.exec("SET innodb_lock_wait_timeout = ?", lockWait)
	s.play.Check(conn.QueryRowContext(s.play.ctx, "SELECT CONNECTION_ID()").Scan(&b.id))
	return b
}

func (b *Buyer) exec(query string, args ...any) {
	_, err := b.Conn.ExecContext(b.play.ctx, query, args...)
	b.play.Check(err)
}

// Isolation sets the isolation level of the transactions to come. The service's
// own, READ COMMITTED, is what holds without.
func (b *Buyer) Isolation(level string) {
	b.exec("SET SESSION TRANSACTION ISOLATION LEVEL " + level)
}

// Begin begins a transaction.
func (b *Buyer) Begin() {
	b.Says("BEGIN")
	b.exec("BEGIN")
	b.tx = true
}

// Commit ends it.
func (b *Buyer) Commit() {
	b.Says("COMMIT")
	b.exec("COMMIT")
	b.tx = false
}

// Rollback undoes it.
func (b *Buyer) Rollback() {
	b.Says("ROLLBACK")
	b.exec("ROLLBACK")
	b.tx = false
}

// The ways to read the stock row.
const (
	plainRead   = "SELECT available, seq FROM stock WHERE sku = ?"
	lockingRead = plainRead + " FOR UPDATE"
)

// Read reads the stock row, and remembers it.
func (b *Buyer) Read() int64 {
	b.play.Check(b.read(b.play.ctx, plainRead))
	b.Says("reads the stock: %s", Units(b.seen.available))
	return b.seen.available
}

// ReadForUpdate reads and locks the stock row, which nobody else has locked.
func (b *Buyer) ReadForUpdate() int64 {
	b.play.Check(b.read(b.play.ctx, lockingRead))
	b.Says("reads the stock FOR UPDATE: %s", Units(b.seen.available))
	return b.seen.available
}

// BeginsReadForUpdate begins to lock the row, which another has locked, and
// returns once the statement waits for it.
func (b *Buyer) BeginsReadForUpdate() *Step {
	step := b.Begins("reads the stock FOR UPDATE, and has to wait",
		func(ctx context.Context) error { return b.read(ctx, lockingRead) })
	b.Waits(step)
	return step
}

// HasRead writes down what a read that had to wait has brought.
func (b *Buyer) HasRead(step *Step) int64 {
	step.Ends()
	b.Says("has read the stock: %s", Units(b.seen.available))
	return b.seen.available
}

func (b *Buyer) read(ctx context.Context, query string) error {
	return b.Conn.QueryRowContext(ctx, query, []byte(SKU)).Scan(&b.seen.available, &b.seen.seq)
}

// Waits returns once InnoDB lists b's transaction as one that waits for a lock.
func (b *Buyer) Waits(step *Step) {
	b.play.Until(b.Name+" waits for a row", func(ctx context.Context) (waits bool, err error) {
		step.MustWait()
		err = b.shop.DB.SQL.QueryRowContext(ctx, `SELECT COUNT(*) > 0 FROM information_schema.INNODB_TRX
			WHERE trx_mysql_thread_id = ? AND trx_state = 'LOCK WAIT'`, b.id).Scan(&waits)
		return waits, err
	})
}
