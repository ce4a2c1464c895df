package order

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/stock"
)

// simMySQL has what matters of MySQL's semantics: a packet's transaction is applied
// whole, or not at all, at one moment, perhaps after its sender has given up; statements
// that commit by themselves are apart in time; the keys of orders are unique; a locked row
// makes writers wait.
// TestSimulationAnswersAsMySQL compares it with the real one.
type simMySQL struct {
	simServer

	// simServer.mu guards the tables.
	stock    map[string]*stock.Stock
	orders   []*simOrder
	byKey    map[byKey]*simOrder
	byID     map[ID]*simOrder
	restocks map[string]*Restock
	locked   map[string]time.Time // by a stranger, until then
	levels   map[string][]level   // of each SKU, the oldest first
}

type simOrder struct {
	Order
	returnedBy  ID
	made, ended time.Duration // when they were committed; ended is when its units returned
}

// level is what a row shows from a moment on.
type level struct {
	at        time.Duration
	available int64
	limit     int64
	fence     uint64
}

func newSimMySQL(s *sim) *simMySQL {
	return &simMySQL{simServer: simServer{s: s, name: "mysql"}, stock: map[string]*stock.Stock{}, byKey: map[byKey]*simOrder{}, byID: map[ID]*simOrder{},
		restocks: map[string]*Restock{}, locked: map[string]time.Time{}, levels: map[string][]level{}}
}

// simClient is MySQL as one process sees it.
type simClient struct {
	*simMySQL
	process *simProcess
}

const (
	simRowLock   = time.Second // innodb_lock_wait_timeout
	simStatement = 100 * time.Microsecond
)

// simError is an error that the server returns.
func simError(number uint16) error { return &mysql.MySQLError{Number: number, Message: "simulated"} }

// now is NOW(6).
func (db *simMySQL) now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// run executes a statement, or a transaction, at one moment. It waits for the row locks
// of strangers first.
func (db *simMySQL) run(c *chance, text string, rows []string, f func() error) error {
	for began := time.Now(); ; {
		db.mu.Lock()
		var until time.Time
		for _, sku := range rows {
			if t := db.locked[sku]; t.After(until) {
				until = t
			}
		}
		if !until.After(time.Now()) {
			defer db.mu.Unlock()
			if db.down {
				return errSimReset
			}
			err := f()
			db.s.log("mysql: %s: %v", text, err)
			return err
		}
		db.mu.Unlock()
		if time.Until(until) > simRowLock-time.Since(began) {
			time.Sleep(simRowLock - time.Since(began))
			return simError(1205)
		}
		time.Sleep(time.Until(until) + c.delay(simStatement))
	}
}

func (db simClient) ask(ctx context.Context, what string, exec func(c *chance) error) error {
	err := db.call(ctx, db.process, what, exec)
	if errors.Is(err, errSimRefused) {
		return fmt.Errorf("%w: %w", stock.ErrNoConnection, err)
	}
	return err
}

// transact sends a packet of one statement, or of one transaction.
func (db simClient) transact(ctx context.Context, what string, rows []string, f func() error) error {
	return db.ask(ctx, what, func(c *chance) error {
		if c.oneIn(100) && len(rows) > 0 {
			return simError(1213) // a deadlock with a stranger
		}
		return db.run(c, what, rows, f)
	})
}

// outcomeOf is what execCommitted makes of an error.
func (db simClient) outcomeOf(err error) error {
	if errors.Is(err, stock.ErrNoConnection) {
		return err
	}
	return stock.OutcomeOf(err)
}

// changed notes the row's new level.
func (db *simMySQL) changed(sku string) {
	row := db.stock[sku]
	l := level{at: db.s.now(), available: row.Available, limit: noLimit, fence: row.Fence}
	if row.PerCustomerLimit != nil {
		l.limit = int64(*row.PerCustomerLimit)
	}
	db.levels[sku] = append(db.levels[sku], l)
}

const noLimit = 1 << 40

func (db simClient) Ping(ctx context.Context) error {
	return db.transact(ctx, "ping", nil, func() error { return nil })
}

func (db simClient) Get(ctx context.Context, sku string) (stock.Stock, error) {
	var got stock.Stock
	err := db.transact(ctx, "get "+sku, nil, func() error {
		row, ok := db.stock[sku]
		if !ok {
			return stock.ErrUnknownSKU
		}
		got = *row
		return nil
	})
	if err != nil {
		return stock.Stock{}, err
	}
	return got, nil
}

func (db simClient) listed(ctx context.Context, sku string) error {
	return db.transact(ctx, "listed "+sku, nil, func() error {
		if row, ok := db.stock[sku]; !ok || !row.Listed(db.now()) {
			return stock.ErrUnknownSKU
		}
		return nil
	})
}

func (db simClient) Change(ctx context.Context, want stock.Stock, _ *uint64) (bool, error) {
	err := db.transact(ctx, "change "+want.SKU, []string{want.SKU}, func() error {
		row := db.stock[want.SKU]
		row.PerCustomerLimit, row.HoldPolicy, row.PriceCents = want.PerCustomerLimit, cmp.Or(want.HoldPolicy, stock.Lenient), want.PriceCents
		row.Seq++
		row.Revision++
		db.changed(want.SKU)
		return nil
	})
	return err == nil, err
}

func (db simClient) claim(ctx context.Context, claim stock.Claim) (stock.Row, error) {
	var got stock.Row
	text := fmt.Sprintf("claim %s by %d", claim.SKU, claim.Token)
	err := db.ask(ctx, text, func(c *chance) error {
		err := db.run(c, text, []string{claim.SKU}, func() error {
			if row := db.stock[claim.SKU]; row.Fence < uint64(claim.Token) {
				row.Fence = uint64(claim.Token)
				db.changed(claim.SKU)
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.sleep(simStatement)
		return db.run(c, "read "+claim.SKU, nil, func() error {
			got = stock.Row{Stock: *db.stock[claim.SKU], Now: db.now()}
			return nil
		})
	})
	if err != nil {
		return stock.Row{}, fmt.Errorf("claim: %w", err)
	}
	return got, claim.Check(got)
}

func (db simClient) commit(ctx context.Context, group []*write) error {
	var skus []string
	var texts []string
	orders := make([]Order, 0, 8)
	takes := make([]stock.Take, len(group))
	for i, w := range group { // copied now: the sender may give up before they are used
		skus, takes[i] = append(skus, w.claim.SKU), w.take()
		for _, o := range w.orders {
			orders = append(orders, *o)
		}
		texts = append(texts, fmt.Sprintf("%s token %d seq %d units %d", w.claim.SKU, w.claim.Token, w.row.Seq, w.units))
	}
	return db.outcomeOf(db.transact(ctx, "commit "+strings.Join(texts, ", "), skus, func() error {
		for _, t := range takes {
			if !t.Admits(db.stock[t.Claim.SKU], db.now()) {
				return simError(1242)
			}
		}
		keys := map[byKey]bool{}
		for _, o := range orders {
			k := byKey{o.Customer, o.Key}
			if db.byKey[k] != nil || keys[k] {
				return simError(1062)
			}
			keys[k] = true
		}
		if most := group[0].maxUnpaid; most > 0 {
			unpaid := db.unpaid()
			for _, o := range orders {
				if unpaid[o.Customer]++; unpaid[o.Customer] > most {
					return simError(1690)
				}
			}
		}
		for _, t := range takes {
			row := db.stock[t.Claim.SKU]
			row.Available -= t.Units
			row.Seq++
			db.changed(row.SKU)
		}
		for _, o := range orders {
			made := &simOrder{Order: o, made: db.s.now()}
			db.orders, db.byKey[byKey{o.Customer, o.Key}], db.byID[o.ID] = append(db.orders, made), made, made
		}
		return nil
	}))
}

func (db simClient) admitted(ctx context.Context, takes []stock.Take) ([]string, error) {
	var got []string
	err := db.transact(ctx, "admitted "+takes[0].Claim.SKU, nil, func() error {
		for _, t := range takes {
			if t.Admits(db.stock[t.Claim.SKU], db.now()) {
				got = append(got, t.Claim.SKU)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

func (db *simMySQL) lookUp(keys []byKey) map[byKey]Order {
	found := map[byKey]Order{}
	for _, k := range keys {
		if o := db.byKey[k]; o != nil {
			found[k] = o.Order
		}
	}
	return found
}

func (db simClient) check(ctx context.Context, keys []byKey, skus []string) (map[byKey]Order, map[string]version, error) {
	var found map[byKey]Order
	versions := map[string]version{}
	text := "check " + strings.Join(skus, ", ")
	err := db.ask(ctx, text, func(c *chance) error {
		err := db.run(c, text, nil, func() error { found = db.lookUp(keys); return nil })
		if err != nil {
			return err
		}
		c.sleep(simStatement)
		return db.run(c, text, nil, func() error {
			for _, sku := range skus {
				versions[sku] = version{db.stock[sku].Fence, db.stock[sku].Seq}
			}
			return nil
		})
	})
	if err != nil {
		return nil, nil, err
	}
	return found, versions, nil
}

func (db simClient) settle(ctx context.Context, sku string, ids []ID) ([]Order, error) {
	var found []Order
	err := db.transact(ctx, "settle "+sku, []string{sku}, func() error {
		db.stock[sku].Seq++
		db.changed(sku)
		for _, id := range ids {
			if o := db.byID[id]; o != nil {
				found = append(found, o.Order)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (db simClient) returnUnits(ctx context.Context, sku string, to Status, ids []ID, by ID) (int64, error) {
	var ended int64
	ids = slices.Clone(ids)
	err := db.transact(ctx, fmt.Sprintf("%s %d of %s", to, len(ids), sku), []string{sku}, func() error {
		row := db.stock[sku]
		row.Seq++
		for _, id := range ids {
			o := db.byID[id]
			if o == nil || o.SKU != sku || o.Status != Reserved || to == Expired && o.ExpiresAt.After(db.now()) {
				continue
			}
			o.Status, o.ClosedAt, o.returnedBy, o.ended = to, new(db.now()), by, db.s.now()
			ended++
		}
		for _, id := range ids {
			if o := db.byID[id]; o != nil && o.returnedBy == by {
				row.Available += int64(o.Quantity)
			}
		}
		db.changed(sku)
		return nil
	})
	if err != nil {
		return 0, db.outcomeOf(err)
	}
	return ended, nil
}

func (db simClient) findByKeys(ctx context.Context, keys []byKey) (map[byKey]Order, error) {
	var found map[byKey]Order
	err := db.transact(ctx, "look up keys of "+keys[0].customer, nil, func() error { found = db.lookUp(keys); return nil })
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (db simClient) heldBy(ctx context.Context, sku string, policy stock.HoldPolicy, customers []string) (map[string]holding, error) {
	held := map[string]holding{}
	err := db.transact(ctx, "held of "+sku, nil, func() error {
		for _, o := range db.orders {
			ended := o.Status == Cancelled || o.Status == Expired
			if o.SKU != sku || !slices.Contains(customers, o.Customer) || ended && (policy != stock.Strict || !o.ExpiresAt.After(db.now())) {
				continue
			}
			var until *time.Time
			if ended {
				until = new(o.ExpiresAt)
			}
			held[o.Customer] = held[o.Customer].add(int64(o.Quantity), until)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return held, nil
}

// unpaid counts the reserved orders of each customer.
func (db *simMySQL) unpaid() map[string]int {
	unpaid := map[string]int{}
	for _, o := range db.orders {
		if o.Status == Reserved {
			unpaid[o.Customer]++
		}
	}
	return unpaid
}

func (db simClient) unpaidOf(ctx context.Context, customers []string) (map[string]int, error) {
	var unpaid map[string]int
	err := db.transact(ctx, "unpaid", nil, func() error { unpaid = db.unpaid(); return nil })
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(unpaid, func(c string, _ int) bool { return !slices.Contains(customers, c) })
	return unpaid, nil
}

// read reads a customer's order.
func (db *simMySQL) read(customer string, id ID, to *Order) error {
	o := db.byID[id]
	if o == nil || o.Customer != customer {
		return ErrNotFound
	}
	*to = o.Order
	return nil
}

func (db simClient) find(ctx context.Context, customer string, id ID) (Order, error) {
	var got Order
	err := db.transact(ctx, "find an order of "+customer, nil, func() error { return db.read(customer, id, &got) })
	if err != nil {
		return Order{}, err
	}
	return got, nil
}

// pay knows payOrder only: the simulation pays without references.
func (db simClient) pay(ctx context.Context, _ payment, customer string, id ID, _ string) (Order, time.Time, bool, error) {
	var got Order
	var now time.Time
	text := "pay an order of " + customer
	err := db.ask(ctx, text, func(c *chance) error {
		err := db.run(c, text, nil, func() error {
			if o := db.byID[id]; o != nil && o.Customer == customer && o.Status == Reserved && o.ExpiresAt.After(db.now()) {
				o.Status, o.ClosedAt = Paid, new(db.now())
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.sleep(simStatement)
		return db.run(c, text, nil, func() error { now = db.now(); return db.read(customer, id, &got) })
	})
	if err != nil {
		return Order{}, time.Time{}, false, err
	}
	return got, now, false, nil
}

func (db simClient) findRestock(ctx context.Context, key string) (Restock, error) {
	var got Restock
	err := db.transact(ctx, "find a restock", nil, func() error {
		r, ok := db.restocks[key]
		if !ok {
			return sql.ErrNoRows
		}
		got = *r
		return nil
	})
	if err != nil {
		return Restock{}, fmt.Errorf("read a restock: %w", err)
	}
	return got, nil
}

func (db simClient) insertRestock(ctx context.Context, id ID, r *RestockRequest) error {
	add := *r
	return db.outcomeOf(db.transact(ctx, fmt.Sprintf("restock %s by %d", r.SKU, r.Units), []string{r.SKU}, func() error {
		if db.restocks[add.Key] != nil {
			return simError(1062)
		}
		row := db.stock[add.SKU]
		row.Units += int64(add.Units)
		row.Available += int64(add.Units)
		row.Seq++
		row.Revision++
		db.restocks[add.Key] = &Restock{ID: id, SKU: add.SKU, Units: add.Units, CreatedAt: db.now(), fingerprint: add.fingerprint(), seq: row.Seq}
		db.changed(add.SKU)
		return nil
	}))
}
