package order

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
	"flashsale/internal/record"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// MetricsOf returns a service's metrics.
func MetricsOf(s *Service) *Metrics { return s.cfg.Metrics }

// NeverTakeOver makes a service wait for silent sellers for ever.
func NeverTakeOver(s *Service) {
	k := &s.seller.(*desks).takeOvers
	k.mu.Lock()
	defer k.mu.Unlock()
	k.patience, k.last = math.MaxInt, time.Now().Add(time.Hour)
}

// NoteOrder returns a function that makes every call that records a step, as one order
// under some strategy would.
func NoteOrder(steps *record.Recorder) func() {
	cfg := &Config{Steps: steps}
	r := &Request{SKU: "sale-1", Customer: "customer", Key: "key", Quantity: 1}
	row := &stock.Row{Stock: stock.Stock{SKU: r.SKU, Available: 7, Seq: 3}}
	o := &Order{ID: newID(), SKU: r.SKU, Customer: r.Customer, Key: r.Key, Quantity: 1, Seq: 4}
	d := &decision{orders: []*Order{o}}
	holder, held := &lock.Holder{Addr: "10.0.0.1:7"}, lock.Held(noHeld{})
	placed := &Placed{Order: *o, Replayed: true}
	return func() {
		cfg.note(record.Arrived, r.SKU, r, 0, nil)
		cfg.noteForward(r, holder)
		cfg.noteLock(r.SKU, r, held, nil)
		cfg.noteClaim(stock.Claim{SKU: r.SKU}, r, row, nil)
		if saw := cfg.saw(r); saw != nil {
			saw(row, false)
		}
		if saw := cfg.sawUnits(r); saw != nil {
			saw(stock.Level{})
		}
		cfg.noteTake(r, o.ID, stock.Level{}, nil)
		cfg.noteGiveBack(r.SKU, o.ID, nil)
		cfg.noteWrite(record.Wrote, 0, o, 6, nil)
		cfg.noteCommit(0, o, 6, nil)
		cfg.noteCommits(0, d, 7, nil)
		cfg.noteDecision(r, placed, nil)
		cfg.noteTakeOver(forward.Waiting{}, forward.Peer{}, reasonDead)
		cfg.noteUnlock(r.SKU, r, held, nil)
		cfg.noteAnswer(r, placed, nil)
	}
}

type noHeld struct{ lock.Held }

func (noHeld) Token() lock.Token { return 7 }

// KeysQuery is the look-up of n keys, for a test of the server's plan.
func KeysQuery(n int) (query string, args []any) {
	keys := make([]byKey, n)
	for i := range keys {
		keys[i] = byKey{fmt.Sprint("customer", 1+i%100), fmt.Sprint("key", 1+i/100)}
	}
	return keysQuery(keys)
}

// Part is one SKU's part of a group. Each of its orders has one unit.
type Part struct {
	Row    stock.Row
	Token  lock.Token
	Orders int
	// Salt makes the keys differ from those of parts with another salt.
	Salt int
	// Customers, if not zero, is the number of customers that the orders are placed by,
	// at random. Otherwise each order has its own customer.
	Customers int
	// First is the number of the first order's customer, if each has its own.
	First int
	// MaxUnpaid is Config.MaxUnpaid.
	MaxUnpaid int
}

func group(parts []Part) []*write {
	cfg := &Config{}
	var writes []*write
	for _, p := range parts {
		w := &write{claim: stock.Claim{SKU: p.Row.SKU, Token: p.Token, Fence: strategy.FenceClaim}, row: p.Row, maxUnpaid: p.MaxUnpaid, done: make(chan error, 1)}
		for i := range p.Orders {
			r := Request{SKU: p.Row.SKU, Customer: fmt.Sprint("customer", p.First+i), Key: fmt.Sprint("key of ", p.Row.SKU, p.Salt), Quantity: 1}
			if p.Customers > 0 {
				r.Customer, r.Key = fmt.Sprint("customer", rand.IntN(p.Customers)), newID().String()
			}
			o := cfg.makeOrder(&r, newID(), &p.Row, p.Row.Now, p.Token)
			w.orders, w.units = append(w.orders, &o), w.units+1
		}
		writes = append(writes, w)
	}
	return writes
}

// CommitGroup writes the parts as one group and returns the outcome of each.
func CommitGroup(ctx context.Context, db *stock.DB, parts ...Part) (outcomes []error) {
	return CommitCounted(ctx, db, NewMetrics(nil), parts...)
}

// CommitCounted is CommitGroup with metrics.
func CommitCounted(ctx context.Context, db *stock.DB, metrics *Metrics, parts ...Part) (outcomes []error) {
	c := newCommitter(&Config{database: inMySQL{db}, Metrics: metrics, Logger: slog.New(slog.DiscardHandler)}, nil)
	writes := group(parts)
	c.write(ctx, slices.Clone(writes))
	for _, w := range writes {
		outcomes = append(outcomes, <-w.done)
	}
	return outcomes
}

// GroupText is the packet that CommitGroup sends.
func GroupText(parts ...Part) string {
	query, _, _ := groupStatements(group(parts))
	return query
}

// TurnOf are the statements that lock a customer.
func TurnOf(customer string) string { return turnOf([]string{customer}) }

// Group is a group for benchmarks of its packet.
type Group struct{ writes []*write }

// NewGroup makes a group of parts.
func NewGroup(parts ...Part) Group { return Group{group(parts)} }

// Text makes the packet.
func (g Group) Text() { groupStatements(g.writes) }

var benchDesk = &desk{
	cfg:   &Config{Desk: DeskConfig{}.withDefaults(), Metrics: NewMetrics(nil), yield: func(context.Context, string) {}},
	desks: &desks{},
	queue: newQueue(),
}

// QueueOnce queues an order at a desk, takes it, and answers it.
func QueueOnce() {
	t := newOrderTicket(context.Background(), &Request{SKU: "sale-1", Customer: "customer", Key: "key", Quantity: 1}, 0)
	benchDesk.queue.put(t, 1)
	for _, t := range benchDesk.gather() {
		t.answer(Placed{}, nil)
	}
	<-t.answered
}

// Query is a statement and the index by which it finds orders. Index is empty for a
// whole transaction.
type Query struct {
	Text  string
	Args  []any
	Index string
}

// HeldBy reads how many units of a SKU each of the customers holds.
func HeldBy(ctx context.Context, conn *sql.Conn, sku string, policy stock.HoldPolicy, customers []string) (map[string]int64, error) {
	held, err := heldBy(ctx, conn, sku, policy, customers)
	units := map[string]int64{}
	for c, h := range held {
		units[c] = h.units
	}
	return units, err
}

// FindDue reads all due orders, in pages of limit, and returns their number.
func FindDue(ctx context.Context, db *stock.DB, limit int) (n int, err error) {
	var after dueOrder
	for {
		due, err := findDue(ctx, db, after, limit)
		n += len(due)
		if err != nil || len(due) == 0 {
			return n, err
		}
		after = due[len(due)-1]
	}
}

// LifeQueries are the statements of the life cycle. Those for several orders have n.
func LifeQueries(n int) map[string]Query {
	ids := make([]ID, n)
	for i := range ids {
		ids[i] = newID()
	}
	id, text := ids[0][:], []byte("x")
	queries := map[string]Query{
		"pay":           {payOrder.update, []any{nil, id, text, nil, nil}, "PRIMARY"},
		"bind":          {payOrder.bind, []any{text, id, text, text}, ""},
		"name":          {namePayment.update, []any{nil, id, text, nil, nil}, "PRIMARY"},
		"read":          {readOrder, nil, ""},
		"read archived": {readArchived, nil, ""},
		"list":          {listOrders, nil, ""},
		"list recent":   {listRecent, nil, ""},
		"list of a SKU": {listOrdersOf, []any{text, 1, 1, id, 200}, "of_sku"},
		"has many":      {hasMany, nil, ""},
		"due":           {dueOrders, []any{time.Unix(0, 0), time.Unix(0, 0), id, 2000}, "expiring"},
		"next due":      {nextDue, nil, ""},
		"purgeable":     {purgeable, nil, ""},
		"archive":       {archiveOrders("(?, ?)"), nil, ""},
		"keep late":     {bindLatePayment + keepLatePayment, nil, ""},
		"list late":     {listLatePayments, nil, ""},
		"restock":       {addRestock, nil, ""},
		"read restock":  {readRestock, nil, ""},
	}
	for _, to := range []Status{Cancelled, Expired} {
		query, args := returnStatements("sku", to, ids, newID())
		queries[string(to)] = Query{query, nil, ""}
		parts := strings.Split(query, "; ")
		queries[string(to)+": end"] = Query{parts[2], args[1 : n+4], "PRIMARY"}
		queries[string(to)+": return"] = Query{parts[3], args[n+4:], "PRIMARY"}
	}
	return queries
}
