package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// CompareWithModel makes random calls of a real database with the SKUs a and b, and of the
// simulated one, and compares the answers and the rows.
func CompareWithModel(t *testing.T, real *stock.DB, seed uint64, calls int) {
	t.Helper()
	s := &sim{t: t, seed: seed, began: time.Now()}
	s.mysql = newSimMySQL(s)
	node := &simNode{s: s, name: "r", running: newWay(), ways: map[string]*way{"mysql": newWay()}}
	m := &modelTest{rand: rand.New(rand.NewPCG(seed, 0)), real: inMySQL{real}, model: simClient{s.mysql, &simProcess{node: node, name: "r", dead: make(chan struct{})}}}
	for _, sku := range []string{"a", "b"} {
		row, err := real.Get(t.Context(), sku)
		if err != nil {
			t.Fatal(err)
		}
		s.mysql.stock[sku] = &row
	}
	for i := range calls {
		what, call := m.next()
		want, wantErr := call(t.Context(), m.real)
		got, gotErr := call(t.Context(), m.model)
		for stock.IsRetryable(gotErr) { // it simulates a deadlock now and then
			got, gotErr = call(t.Context(), m.model)
		}
		if kindOf(wantErr) != kindOf(gotErr) {
			t.Fatalf("seed %d, call %d, %s: MySQL's error is %v, the model's %v", seed, i, what, wantErr, gotErr)
		}
		if diff := cmp.Diff(want, got); wantErr == nil && diff != "" {
			t.Fatalf("seed %d, call %d, %s: the model differs:\n%s", seed, i, what, diff)
		}
	}
	s.background.Wait()
}

// kindOf is what this package's code makes of an error.
func kindOf(err error) string {
	for _, is := range []error{stock.ErrFenced, stock.ErrUnknownSKU, ErrNotFound, sql.ErrNoRows, stock.ErrOutcomeUnknown} {
		if errors.Is(err, is) {
			return is.Error()
		}
	}
	switch {
	case err == nil:
		return ""
	case stock.IsStopped(err):
		return "stopped"
	case stock.IsStoppedIf(err):
		return "stopped if"
	case stock.IsDuplicate(err):
		return "duplicate"
	}
	return err.Error()
}

type modelTest struct {
	rand        *rand.Rand
	real, model database
	ids         []ID
}

func (m *modelTest) sku() string      { return []string{"a", "b"}[m.rand.IntN(2)] }
func (m *modelTest) customer() string { return fmt.Sprint("customer", m.rand.IntN(3)) }
func (m *modelTest) key() byKey       { return byKey{m.customer(), fmt.Sprint("key", m.rand.IntN(40))} }

func (m *modelTest) someIDs() []ID {
	var ids []ID
	for range 1 + m.rand.IntN(3) {
		if id := newID(); len(m.ids) == 0 || m.rand.IntN(4) == 0 {
			ids = append(ids, id)
		} else if id := m.ids[m.rand.IntN(len(m.ids))]; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// write is a batch that often differs from the row in one respect.
func (m *modelTest) write(sku string) *write {
	row, _ := m.model.Get(context.Background(), sku)
	w := &write{claim: stock.Claim{SKU: sku, Token: lock.Token(row.Fence), Fence: strategy.FenceClaim}, row: stock.Row{Stock: row, Now: time.Now().UTC()}}
	switch m.rand.IntN(8) {
	case 0:
		w.claim.Token += lock.Token(m.rand.IntN(3)) - 1
	case 1:
		w.row.Seq += uint64(m.rand.IntN(3)) - 1
	case 2:
		w.row.Now = w.row.Now.Add(time.Duration(m.rand.IntN(3)-1) * 10 * stock.ClockTolerance)
	}
	cfg := &Config{PaymentWindow: time.Hour}
	for range 1 + m.rand.IntN(3) {
		k := m.key()
		r := &Request{SKU: sku, Customer: k.customer, Key: k.key, Quantity: 1 + m.rand.Int32N(2)}
		o := cfg.makeOrder(r, newID(), &w.row, w.row.Now, w.claim.Token)
		w.orders, w.units = append(w.orders, &o), w.units+int64(r.Quantity)
		m.ids = append(m.ids, o.ID)
	}
	w.maxUnpaid = 3 * m.rand.IntN(2)
	return w
}

// bare is an order without the times that two clocks have set.
func bare(o Order) Order {
	if o.ClosedAt != nil {
		o.ClosedAt = new(time.Unix(0, 0))
	}
	return o
}

func bareAll(found map[byKey]Order) []Order {
	all := []Order{}
	for _, o := range found {
		all = append(all, bare(o))
	}
	slices.SortFunc(all, func(a, b Order) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return all
}

func bareRow(row stock.Stock) stock.Stock {
	row.CreatedAt, row.UpdatedAt = time.Time{}, time.Time{}
	return row
}

func (m *modelTest) next() (string, func(context.Context, database) (any, error)) {
	sku, ids, key := m.sku(), m.someIDs(), m.key()
	switch m.rand.IntN(12) {
	case 0:
		token := lock.Token(1 + m.rand.IntN(30))
		return "claim", func(ctx context.Context, db database) (any, error) {
			row, err := db.claim(ctx, stock.Claim{SKU: sku, Token: token, Fence: strategy.FenceClaim})
			row.Revision = 0 // not read
			return bareRow(row.Stock), err
		}
	case 1, 2, 3, 4:
		group := []*write{m.write("a"), m.write("b")}[:1+m.rand.IntN(2)]
		return "commit", func(ctx context.Context, db database) (any, error) { return nil, db.commit(ctx, group) }
	case 5:
		takes := []stock.Take{m.write("a").take(), m.write("b").take()}
		return "admitted", func(ctx context.Context, db database) (any, error) {
			got, err := db.admitted(ctx, takes)
			slices.Sort(got)
			return got, err
		}
	case 6:
		return "check", func(ctx context.Context, db database) (any, error) {
			found, versions, err := db.check(ctx, []byKey{key}, []string{"a", "b"})
			return []any{bareAll(found), versions["a"].seq, versions["a"].fence, versions["b"].seq, versions["b"].fence}, err
		}
	case 7:
		return "settle", func(ctx context.Context, db database) (any, error) {
			found, err := db.settle(ctx, sku, ids)
			all := map[byKey]Order{}
			for _, o := range found {
				all[byKey{o.Customer, o.Key}] = o
			}
			return bareAll(all), err
		}
	case 8:
		by, to := newID(), []Status{Cancelled, Expired}[m.rand.IntN(2)] // none is due
		return "return units", func(ctx context.Context, db database) (any, error) { return db.returnUnits(ctx, sku, to, ids, by) }
	case 9:
		customer := key.customer
		return "pay and find", func(ctx context.Context, db database) (any, error) {
			_, _, _, err := db.pay(ctx, payOrder, customer, ids[0], "")
			if err != nil {
				return nil, err
			}
			o, err := db.find(ctx, customer, ids[0])
			return bare(o), err
		}
	case 10:
		restock, id := &RestockRequest{SKU: sku, Key: fmt.Sprint("restock", m.rand.IntN(5)), Units: 1 + m.rand.Int32N(9)}, newID()
		return "restock", func(ctx context.Context, db database) (any, error) {
			if _, err := db.findRestock(ctx, restock.Key); err == nil || !errors.Is(err, sql.ErrNoRows) {
				return nil, err
			}
			if err := db.insertRestock(ctx, id, restock); err != nil {
				return nil, err
			}
			got, err := db.findRestock(ctx, restock.Key)
			return []any{got.ID, got.SKU, got.Units, got.seq}, err
		}
	}
	want := stock.Stock{SKU: sku, Name: sku, PriceCents: 100 + m.rand.Int64N(9), Currency: "EUR"}
	if m.rand.IntN(2) == 0 {
		want.PerCustomerLimit = new(1 + m.rand.Int32N(4))
	}
	policy := []stock.HoldPolicy{stock.Lenient, stock.Strict}[m.rand.IntN(2)]
	want.HoldPolicy = policy
	return "change, held, keys and row", func(ctx context.Context, db database) (any, error) {
		changed, err := db.Change(ctx, want, nil)
		if err != nil {
			return nil, err
		}
		held, err := db.heldBy(ctx, sku, policy, []string{"customer0", "customer1"})
		if err != nil {
			return nil, err
		}
		units := map[string]int64{}
		for c, h := range held { // until differs by the clocks
			units[c] = h.units
			for _, cancelled := range h.cancelled {
				units[c+" cancelled"] += cancelled.units
			}
		}
		unpaid, err := db.unpaidOf(ctx, []string{"customer0", "customer1"})
		if err != nil {
			return nil, err
		}
		found, err := db.findByKeys(ctx, []byKey{key})
		if err != nil {
			return nil, err
		}
		row, err := db.Get(ctx, sku)
		return []any{changed, units, unpaid, bareAll(found), bareRow(row)}, err
	}
}
