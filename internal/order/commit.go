package order

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/stock"
)

const (
	// commitLanes is how many transactions the desks of a replica run at once. With
	// one, a SKU whose row is locked by another client would delay all others. With
	// many, each would carry few orders and cost its own sync to disk.
	commitLanes = 3
	groupSKUs   = 256  // of one packet, also of refusals
	groupOrders = 2048 // of one transaction, whose packet stays far below 16 MiB
	partsAtOnce = 8    // leaves most connections of the pool to other lanes
)

// committer writes the batches of a replica's desks, in groups of one packet each. A
// SKU whose row has changed stops the packet, and leaves the group. So does a SKU whose
// orders would bring a customer above the bound on unpaid orders.
type committer struct {
	cfg   *Config
	lanes lanes[*write]
}

// newCommitter makes a committer. start may be nil if every write is alone.
func newCommitter(cfg *Config, start func(lane func())) *committer {
	c := &committer{cfg: cfg}
	c.lanes = lanes[*write]{most: commitLanes, size: func(w *write) int { return len(w.orders) }, maxSize: groupOrders,
		start: start, process: c.write}
	return c
}

// write is one SKU's part of a transaction.
type write struct {
	claim     stock.Claim
	row       stock.Row
	units     int64
	orders    []*Order
	tickets   []*ticket // of orders, for the IDs of their requests; nil without a desk
	alone     bool      // keeps it out of groups
	maxUnpaid int       // Config.MaxUnpaid
	done      chan error
}

func (w *write) take() stock.Take {
	return stock.Take{Claim: w.claim, Row: w.row, Units: w.units, At: w.orders[0].CreatedAt}
}

// commit writes w, after earlier writes, and returns the outcome. It wrote nothing if the
// row differs from the tenure's copy (stock.ErrFenced), if a customer would have too many
// unpaid orders (ErrTooManyUnpaid), or after a duplicate key or a retryable error. stock.ErrOutcomeUnknown has to be resolved.
func (c *committer) commit(ctx context.Context, w *write) error {
	w.done = make(chan error, 1)
	if w.alone {
		c.write(ctx, []*write{w})
	} else {
		c.lanes.add(ctx, w)
	}
	return <-w.done
}

// write writes a group, splits it if one SKU's part fails, and reports each outcome.
func (c *committer) write(ctx context.Context, group []*write) { c.writeThen(ctx, group, func() {}) }

// writeThen is write, and calls then after the first attempt.
func (c *committer) writeThen(ctx context.Context, group []*write, then func()) {
	defer func() {
		if p := recover(); p != nil {
			for _, w := range group {
				w.finish(fmt.Errorf("%w: panic: %v", stock.ErrOutcomeUnknown, p))
			}
		}
	}()
	// All groups lock rows in the same order, or two of them could deadlock.
	slices.SortFunc(group, func(a, b *write) int { return strings.Compare(a.claim.SKU, b.claim.SKU) })
	err := c.transact(ctx, group)
	then()
	if len(group) > 1 && (stock.IsStopped(err) || stock.IsStoppedIf(err) || stock.IsDuplicate(err) || stock.IsRetryable(err)) {
		c.split(ctx, group, err)
		return
	}
	for _, w := range group {
		w.finish(err)
	}
}

// split writes a rolled-back group again. Changed rows, taken keys and customers above the
// bound on unpaid orders are common: their SKUs leave the group and the others stay
// together. For other causes the server does not name the SKU, so each is written alone, a
// few at a time.
func (c *committer) split(ctx context.Context, group []*write, cause error) {
	var leaves map[*write]bool
	var err error
	switch {
	case stock.IsStopped(cause):
		leaves, err = c.findStale(ctx, group)
	case stock.IsDuplicate(cause):
		leaves, err = c.findTaken(ctx, group)
	case stock.IsStoppedIf(cause):
		leaves, err = c.findAbove(ctx, group)
	}
	if err == nil && len(leaves) > 0 {
		finish := sync.OnceFunc(func() {
			for w := range leaves {
				w.finish(cause)
			}
		})
		defer finish()
		if !stock.IsStoppedIf(cause) {
			finish()
		}
		if rest := slices.DeleteFunc(group, func(w *write) bool { return leaves[w] }); len(rest) > 0 {
			// A desk that counts unpaid orders too early would not see those of the rest, and stop
			// the next group. It does not wait for more than one attempt, which a locked row ends.
			c.writeThen(ctx, rest, finish)
		}
		return
	}
	var parts errgroup.Group
	parts.SetLimit(partsAtOnce)
	for _, w := range group {
		parts.Go(func() error { c.write(ctx, []*write{w}); return nil })
	}
	_ = parts.Wait() // each write has received its outcome
}

// findStale finds the writes whose row no longer admits them.
func (c *committer) findStale(ctx context.Context, group []*write) (map[*write]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	takes := make([]stock.Take, len(group))
	for i, w := range group {
		takes[i] = w.take()
	}
	admitted, err := c.cfg.database.admitted(ctx, takes)
	stale := map[*write]bool{}
	for _, w := range group {
		if !slices.Contains(admitted, w.claim.SKU) {
			stale[w] = true
		}
	}
	return stale, err
}

func (db inMySQL) admitted(ctx context.Context, takes []stock.Take) ([]string, error) {
	conditions := make([]string, len(takes))
	for i, t := range takes {
		conditions[i] = "(" + t.Condition() + ")"
	}
	return stock.Query(ctx, db.SQL, oneColumn[string], "SELECT sku FROM stock WHERE "+strings.Join(conditions, " OR "))
}

// findTaken finds the writes with a key of an existing order.
func (c *committer) findTaken(ctx context.Context, group []*write) (map[*write]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	of := map[byKey]*write{}
	for _, w := range group {
		for _, o := range w.orders {
			of[byKey{o.Customer, o.Key}] = w
		}
	}
	taken := map[*write]bool{}
	for some := range slices.Chunk(slices.Collect(maps.Keys(of)), defaultMaxBatch) {
		found, err := c.cfg.database.findByKeys(ctx, some)
		if err != nil {
			return nil, err
		}
		for k := range found {
			taken[of[k]] = true
		}
	}
	return taken, nil
}

// findAbove finds the writes that would bring a customer above the bound on unpaid orders,
// if those before them in the group are written.
func (c *committer) findAbove(ctx context.Context, group []*write) (map[*write]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	unpaid, err := c.cfg.database.unpaidOf(ctx, unpaidCustomers(group))
	if err != nil {
		return nil, err
	}
	above := map[*write]bool{}
	for _, w := range group {
		adds := map[string]int{}
		for _, customer := range w.unpaidCustomers() {
			if adds[customer]++; unpaid[customer]+adds[customer] > w.maxUnpaid {
				above[w] = true
			}
		}
		if above[w] {
			continue
		}
		for customer, n := range adds {
			unpaid[customer] += n
		}
	}
	return above, nil
}

// finish sends the outcome to the desk. Only the first call has an effect.
func (w *write) finish(err error) {
	switch {
	case stock.IsStopped(err):
		err = stock.ErrFenced
	case stock.IsStoppedIf(err):
		err = ErrTooManyUnpaid
	}
	select {
	case w.done <- err:
	default:
	}
}

func (c *committer) transact(ctx context.Context, group []*write) (err error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	ctx, end := c.commitSpan(ctx, group)
	defer func() { end(err) }()
	began := time.Now()
	defer func() { c.cfg.Metrics.Commit.Observe(time.Since(began).Seconds()) }()
	c.cfg.Metrics.GroupSize.Observe(float64(len(group)))
	return c.cfg.database.commit(ctx, group)
}

func (db inMySQL) commit(ctx context.Context, group []*write) error {
	query, orders, insert := groupStatements(group)
	return db.EndingBlockers(ctx, func() error {
		counts, err := db.execCommitted(ctx, query, nil)
		if err == nil && counts[insert] != int64(orders) {
			err = fmt.Errorf("%w: %d of %d orders were inserted", stock.ErrOutcomeUnknown, counts[insert], orders)
		}
		return err
	})
}

// groupStatements is the text of a group's transaction. It is one packet, so that this
// process makes no round trip between the first row lock and COMMIT: if it stopped in
// between, it would keep the rows locked, and the fence could not help its successor.
// insert is the position of the statement that inserts the orders.
func groupStatements(group []*write) (query string, orders, insert int) {
	const takeSize, rowSize = 384, 256 // approximate bytes of a SKU's statements and of an order's row
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
	unpaid := unpaidCustomers(group)
	if len(unpaid) > 0 {
		b.WriteString(turnOf(unpaid) + "; ")
	}
	insert = strings.Count(b.String(), "; ")
	insertOrders(&b, group)
	if len(unpaid) > 0 {
		b.WriteString("; " + stopAbove(group[0].maxUnpaid, unpaid))
	}
	b.WriteString("; COMMIT")
	return b.String(), orders, insert
}

// execCommitted sends a transaction in one packet and returns how many rows each of
// its statements changed, which database/sql does not tell. Its errors are those of
// stock.OutcomeOf.
func (db inMySQL) execCommitted(ctx context.Context, query string, args []any) (counts []int64, err error) {
	named := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
	}
	err = db.OnConn(ctx, func(conn *sql.Conn) error {
		err := conn.Raw(func(raw any) error {
			result, err := raw.(driver.ExecerContext).ExecContext(ctx, query, named)
			if err == nil {
				counts = result.(mysql.Result).AllRowsAffected()
			}
			return err
		})
		if want := strings.Count(query, "; ") + 1; err == nil && len(counts) != want {
			err = fmt.Errorf("%d of %d statements were answered", len(counts), want)
		}
		return stock.OutcomeOf(err)
	})
	return counts, err
}

// lanes process items in groups, on a bounded number of goroutines. Items that
// arrive while all lanes are busy form the next group.
type lanes[T any] struct {
	most    int         // goroutines
	size    func(T) int // of an item
	maxSize int         // of a group of several items
	// start runs a lane on a goroutine that its owner waits for.
	start   func(lane func())
	process func(ctx context.Context, group []T)

	mu      sync.Mutex
	waiting []T
	running int
}

func (l *lanes[T]) add(ctx context.Context, item T) {
	l.mu.Lock()
	l.waiting = append(l.waiting, item)
	idle := l.running < l.most
	if idle {
		l.running++
	}
	l.mu.Unlock()
	if idle {
		l.start(func() {
			for group := l.next(); len(group) > 0; group = l.next() {
				l.process(ctx, group)
			}
		})
	}
}

// next takes the next group. If nothing waits, it ends the lane.
func (l *lanes[T]) next() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.waiting) && n < groupSKUs && (n == 0 || size+l.size(l.waiting[n]) <= l.maxSize) {
		size += l.size(l.waiting[n])
		n++
	}
	if n == 0 {
		l.running--
	}
	group := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	return group
}
