package order

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/stock"
)

const (
	// commitLanes are the transactions that a replica's desks have under way at
	// once. With one, a SKU whose row is locked by a stranger would hold all
	// others up; with many, each would carry few orders, and cost its own sync.
	commitLanes = 3
	// groupSKUs and groupOrders bound one transaction: it stays far below a
	// packet's 16 MiB, and ends within a fraction of commitTimeout.
	groupSKUs   = 256
	groupOrders = 2048
	// partsAtOnce leaves most connections of a pool to other lanes.
	partsAtOnce = 8
)

// committer writes what the desks of a replica have ready. Whatever was handed in
// while the last transaction was under way goes into the next one, in one packet.
// A SKU whose row has changed stops the packet, and leaves the group.
type committer struct {
	cfg *Config
	// start runs a lane in a goroutine that somebody waits for.
	start func(lane func())

	mu      sync.Mutex
	waiting []*write
	lanes   int
}

// write is one SKU's part of a transaction.
type write struct {
	tenure stock.Claim
	row    stock.Row
	units  int64
	orders []*Order
	// tickets are those of orders, for their requests' ids; none without a desk.
	tickets []*ticket
	// alone keeps it out of groups.
	alone bool
	done  chan error
}

func (w *write) take() stock.Take {
	return stock.Take{Claim: w.tenure, Row: w.row, Units: w.units, At: w.orders[0].CreatedAt}
}

// commit writes w and returns what became of it. stock.ErrFenced: nothing was
// written, the row is no longer what the tenure knows. A duplicate key or a
// retryable error: rolled back. stock.ErrOutcomeUnknown: to be resolved. Each
// transaction ends within commitTimeout; w may have to wait for those before it.
func (c *committer) commit(ctx context.Context, w *write) error {
	w.done = make(chan error, 1)
	if w.alone {
		c.write(ctx, []*write{w})
		return <-w.done
	}
	c.mu.Lock()
	c.waiting = append(c.waiting, w)
	idle := c.lanes < commitLanes
	if idle {
		c.lanes++
	}
	c.mu.Unlock()
	if idle {
		c.start(func() { c.lane(ctx) })
	}
	return <-w.done
}

// lane writes group after group until nothing waits.
func (c *committer) lane(ctx context.Context) {
	for {
		c.mu.Lock()
		group := c.next()
		if len(group) == 0 {
			c.lanes--
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.write(ctx, group)
	}
}

// next takes the next group off what waits, up to the bounds.
func (c *committer) next() []*write {
	n, orders := 0, 0
	for n < len(c.waiting) && n < groupSKUs && (n == 0 || orders+len(c.waiting[n].orders) <= groupOrders) {
		orders += len(c.waiting[n].orders)
		n++
	}
	group := slices.Clone(c.waiting[:n])
	c.waiting = slices.Delete(c.waiting, 0, n)
	return group
}

// write writes a group and tells each of it the outcome. A group that the server
// rolled back for one of its SKUs is parted: each of them learns its own fate.
func (c *committer) write(ctx context.Context, group []*write) {
	defer func() {
		if p := recover(); p != nil {
			for _, w := range group {
				w.tell(fmt.Errorf("%w: panic: %v", stock.ErrOutcomeUnknown, p))
			}
		}
	}()
	// Rows are locked in one order everywhere, or two groups could deadlock.
	slices.SortFunc(group, func(a, b *write) int { return strings.Compare(a.tenure.SKU, b.tenure.SKU) })
	err := c.transact(ctx, group)
	if len(group) > 1 && (stock.IsStopped(err) || stock.IsDuplicate(err) || stock.IsRetryable(err)) {
		c.part(ctx, group, err)
		return
	}
	for _, w := range group {
		w.tell(err)
	}
}

// part writes a group again that was rolled back for one of its SKUs. Keys that
// are taken, by buyers who ask again, and rows that another replica has changed, by
// a cancellation, are everyday matters: their SKUs leave the group, and the others
// stay together. The server does not say who had to wait for a row: then each SKU
// is written by itself, a few at a time.
func (c *committer) part(ctx context.Context, group []*write, cause error) {
	var leaves map[*write]bool
	var err error
	switch {
	case stock.IsStopped(cause):
		leaves, err = c.stale(ctx, group)
	case stock.IsDuplicate(cause):
		leaves, err = c.taken(ctx, group)
	}
	if err == nil && len(leaves) > 0 {
		for w := range leaves {
			w.tell(cause)
		}
		if rest := slices.DeleteFunc(group, func(w *write) bool { return leaves[w] }); len(rest) > 0 {
			c.write(ctx, rest)
		}
		return
	}
	var parts errgroup.Group
	parts.SetLimit(partsAtOnce)
	for _, w := range group {
		parts.Go(func() error { c.write(ctx, []*write{w}); return nil })
	}
	_ = parts.Wait() // each has told its outcome
}

// stale are the writes of a group whose row does not admit them any more.
func (c *committer) stale(ctx context.Context, group []*write) (map[*write]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	conditions := make([]string, len(group))
	for i, w := range group {
		conditions[i] = "(" + w.take().Condition() + ")"
	}
	rows, err := c.cfg.DB.SQL.QueryContext(ctx, "SELECT sku FROM stock WHERE "+strings.Join(conditions, " OR "))
	if err != nil {
		return nil, fmt.Errorf("look for changed rows: %w", err)
	}
	defer rows.Close()
	admitted := map[string]bool{}
	for rows.Next() {
		var sku string
		if err := rows.Scan(&sku); err != nil {
			return nil, fmt.Errorf("look for changed rows: %w", err)
		}
		admitted[sku] = true
	}
	stale := map[*write]bool{}
	for _, w := range group {
		if !admitted[w.tenure.SKU] {
			stale[w] = true
		}
	}
	return stale, rows.Err()
}

// taken are the writes of a group with a key that stands with an order.
func (c *committer) taken(ctx context.Context, group []*write) (map[*write]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	of := map[byKey]*write{}
	keys := make([]byKey, 0, groupOrders)
	for _, w := range group {
		for _, o := range w.orders {
			k := byKey{o.Customer, o.Key}
			of[k] = w
			keys = append(keys, k)
		}
	}
	taken := map[*write]bool{}
	err := c.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
		for some := range slices.Chunk(keys, defaultMaxBatch) {
			found, err := findByKeys(ctx, conn, some)
			if err != nil {
				return err
			}
			for k := range found {
				taken[of[k]] = true
			}
		}
		return nil
	})
	return taken, err
}

// tell gives the desk its answer. Only the first one counts.
func (w *write) tell(err error) {
	if stock.IsStopped(err) {
		err = stock.ErrFenced
	}
	select {
	case w.done <- err:
	default:
	}
}

// transact runs a group's transaction. Where it was stopped, nothing was written.
func (c *committer) transact(ctx context.Context, group []*write) (err error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	ctx, end := c.commitSpan(ctx, group)
	defer func() { end(err) }()
	began := time.Now()
	defer func() { c.cfg.Metrics.Commit.Observe(time.Since(began).Seconds()) }()
	c.cfg.Metrics.GroupSize.Observe(float64(len(group)))
	query, orders := groupStatements(group)
	return c.cfg.DB.Clearing(ctx, func() error {
		return c.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
			counts, err := execCommitted(ctx, conn, query, nil)
			if err == nil && counts[len(counts)-2] != int64(orders) {
				err = fmt.Errorf("%w: of %d orders %d were inserted", stock.ErrOutcomeUnknown, orders, counts[len(counts)-2])
			}
			return err
		})
	})
}

// groupStatements is the text of one transaction that takes each SKU's units and
// writes the orders: one packet, so that no round trip of this process stands
// between the first row lock and COMMIT. A process stopped in between would hold
// the rows against its successor, fence or no fence.
func groupStatements(group []*write) (query string, orders int) {
	size := 0
	takes := make([]stock.Take, len(group))
	for i, w := range group {
		takes[i] = w.take()
		size += takeSize
		for _, o := range w.orders {
			size += rowSize + 2*(len(o.SKU)+len(o.Customer)+len(o.Key))
		}
		orders += len(w.orders)
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteString("BEGIN; ")
	stock.WriteTakes(&b, takes)
	insertOrders(&b, group)
	b.WriteString("; COMMIT")
	return b.String(), orders
}

// takeSize and rowSize are about what a SKU's statements, and an order's row without
// the names in it, take of the packet.
const takeSize, rowSize = 384, 256

// execAll sends several statements in one packet and returns how many rows each
// of them changed, which database/sql itself does not tell.
func execAll(ctx context.Context, conn *sql.Conn, query string, args []any) (counts []int64, err error) {
	named := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
	}
	err = conn.Raw(func(raw any) error {
		result, err := raw.(driver.ExecerContext).ExecContext(ctx, query, named)
		if err != nil {
			return err
		}
		counts = result.(mysql.Result).AllRowsAffected()
		return nil
	})
	return counts, err
}
