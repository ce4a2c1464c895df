package testbed

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/google/uuid"

	"flashsale/internal/sandbox"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// SKU is what every shop sells.
const SKU = "sneaker"

const priceCents = 9900

// Shop is a database with the service's own tables and one SKU on sale.
type Shop struct {
	DB *stock.DB
	// DSN is that of its database.
	DSN string

	run     *Run
	refused []refusal
}

// refusal is an order that was refused when the row had that seq.
type refusal struct {
	who string
	n   int64
	seq uint64
	why string
}

// Shop puts units on sale. The run audits the shop when the script ends.
func (r *Run) Shop(units int64) *Shop { return r.ShopOn(r.MySQL(), units) }

// ShopOn puts units on sale on that server.
func (r *Run) ShopOn(server *sandbox.MySQL, units int64) *Shop {
	dsn, err := server.CreateDatabase(r.ctx, r.Name)
	r.Check(err)
	s := &Shop{DB: r.Open(dsn), DSN: dsn, run: r}
	r.Check(s.DB.Migrate(r.ctx))
	_, err = s.DB.Create(r.ctx, stock.Stock{SKU: SKU, Name: "Sneaker", PriceCents: priceCents, Currency: "EUR", Units: units})
	r.Check(err)
	r.shops = append(r.shops, s)
	return s
}

// Open opens a pool that is closed when the run ends.
func (r *Run) Open(dsn string) *stock.DB {
	db, err := stock.Open(dsn, 16)
	r.Check(err)
	r.Cleanup(db.Close)
	return db
}

// Buyers adds the buyers A and B.
func (s *Shop) Buyers() (a, b *Buyer) { return s.Buyer("A"), s.Buyer("B") }

// Replicas starts the replicas A and B with that lock.
func (s *Shop) Replicas(kind strategy.Lock) (a, b *Replica) {
	return s.Replica("A", kind), s.Replica("B", kind)
}

// Exec changes the shop's database without a line in the log.
func (s *Shop) Exec(query string, args ...any) {
	_, err := s.DB.SQL.ExecContext(s.run.ctx, query, args...)
	s.run.Check(err)
}

func (s *Shop) row() stock.Stock {
	row, err := s.DB.Get(s.run.ctx, SKU)
	s.run.Check(err)
	return row
}

// Available is the number of units left, by the stock row.
func (s *Shop) Available() int64 { return s.row().Available }

// Refuse records that an order was refused. The audit then checks that no units
// were left for it.
func (s *Shop) Refuse(who string, n int64, why string) { s.refuseAt(who, n, why, s.row().Seq) }

// refuseAt records a refusal that was decided on the row as it was at seq.
func (s *Shop) refuseAt(who string, n int64, why string, seq uint64) {
	s.refused = append(s.refused, refusal{who: who, n: n, seq: seq, why: why})
}

// Reset begins again: no orders and no refusals, and units on sale.
func (s *Shop) Reset(units int64) {
	s.Exec("DELETE FROM orders")
	s.Exec("UPDATE stock SET units = ?, available = ?, fence = 0, seq = 0", units, units)
	s.refused = nil
}

// Audit runs the service's own audit, and checks invariant 7 besides: nobody was
// refused units that remain, after the last change of stock.
func (s *Shop) Audit() Audit {
	report, err := stock.Audit(s.run.ctx, s.DB)
	s.run.Check(err)
	b := report.SKUs[0]
	sold := b.Reserved + b.Paid
	audit := Audit{OK: report.OK, Text: []string{fmt.Sprintf("%s on sale = %d available + %d sold", Units(b.Units), b.Available, sold)}}
	if b.Units != b.Available+sold {
		audit.Text[0] = fmt.Sprintf("%s on sale, but %d available + %d sold", Units(b.Units), b.Available, sold)
	}
	for _, v := range report.Violations {
		detail := v.Detail
		if v.Invariant == stock.Conservation {
			switch {
			case b.Oversold > 0:
				detail = "oversold by " + Units(b.Oversold)
			case b.Units > b.Available+sold:
				detail = Units(b.Units-b.Available-sold) + " lost"
			default:
				detail = Units(b.Available+sold-b.Units) + " too many"
			}
		}
		audit.Text = append(audit.Text, "broken: "+v.Invariant+": "+detail)
	}
	now := s.row()
	for _, r := range s.refused {
		if r.seq == now.Seq && now.Available >= r.n {
			audit.OK = false
			audit.Text = append(audit.Text,
				fmt.Sprintf("broken: nothing is left unsold: %s was refused (%s), but %s remained", r.who, r.why, Units(now.Available)))
		}
	}
	return audit
}

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func insertOrder(ctx context.Context, db execer, customer string, n int64, token, seq uint64) error {
	id := uuid.Must(uuid.NewV7())
	_, err := db.ExecContext(ctx, `INSERT INTO orders (id, sku, customer, idempotency_key, fingerprint, quantity, price_cents, currency,
		status, fence, seq, created_at, expires_at)
		VALUES (?, ?, ?, ?, REPEAT('0', 32), ?, ?, 'EUR', 'reserved', ?, ?, NOW(6), NOW(6) + INTERVAL 15 MINUTE)`,
		id[:], []byte(SKU), []byte(customer), []byte(id.String()), n, priceCents, token, seq)
	return err
}
