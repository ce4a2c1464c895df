package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// direct takes each order in a transaction of its own, under a lock of its own
// where the strategy has one.
type direct struct {
	cfg *Config
	// committer writes orders that show a token.
	committer *committer
	lines     lines
	// returning are units that are given back behind their callers, in turn at
	// returns, until closing is done.
	returning sync.WaitGroup
	returns   lines
	closing   context.Context
	end       context.CancelFunc
}

func newDirect(cfg *Config) *direct {
	d := &direct{cfg: cfg, committer: &committer{cfg: cfg}, lines: lines{length: lineLength}, returns: lines{length: 1}}
	d.closing, d.end = context.WithCancel(context.Background())
	return d
}

// lineLength bounds the orders of a replica that ask a server for one SKU at a
// time. The others stand in line before them: thousands of places in a queue, or
// of rivals of a compare-and-swap, would keep the server too busy to serve any.
const lineLength = 8

// lines are the orders that ask for each SKU.
type lines struct {
	length int
	of     sync.Map // SKU -> chan struct{}, of those that exist
}

// enter waits for a turn.
func (l *lines) enter(ctx context.Context, sku string) (leave func(), err error) {
	line, ok := l.of.Load(sku)
	if !ok {
		line, _ = l.of.LoadOrStore(sku, make(chan struct{}, l.length))
	}
	places := line.(chan struct{})
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

const (
	// directAttempts bounds how often an order is tried again, under a new
	// grant: after a transaction that the server gave up (deadlock, lock wait),
	// and after a grant that was lost or fenced.
	directAttempts = 5
	// directBackoff is the longest wait before it is: enough to part two that
	// deadlocked, little beside the lock wait itself.
	directBackoff = 10 * time.Millisecond
	// unlockTimeout bounds the giving back of a lock after its order is done,
	// when the request's own time may be over.
	unlockTimeout = time.Second
)

func (d *direct) sell(ctx context.Context, r Request) (Placed, error) {
	if err := d.cfg.Halted(); err != nil {
		return Placed{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.RequestTimeout)
	defer cancel()
	var lastErr error
	for range directAttempts {
		placed, err := d.locked(ctx, r)
		if !stock.IsRetryable(err) && !errors.Is(err, errTryAgain) {
			return placed, classify(err)
		}
		lastErr = err
		if sleep.For(ctx, rand.N(directBackoff)) != nil {
			return Placed{}, classify(err)
		}
	}
	return Placed{}, classify(lastErr)
}

// errTryAgain says that the transaction was rolled back for a reason that does
// not stand in the way of the next one.
var errTryAgain = errors.New("try again")

// errNoToken: a fence was asked for, and the lock has nothing to show to it. No
// token would pass for the oldest.
var errNoToken = errors.New("the lock yields no token")

// classify makes what ended an order one of this package's errors.
func classify(err error) error {
	if err == nil || isKnown(err) {
		return err
	}
	if errors.Is(err, lock.ErrHeld) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if errors.Is(err, errNoToken) {
		return err // the service's own fault: no waiting mends it
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// isKnown reports whether err says what is to be said to a caller.
func isKnown(err error) bool {
	for _, known := range []error{stock.ErrUnknownSKU, stock.ErrTooManyUnits, ErrSoldOut, ErrInsufficient, ErrNotOpen, ErrOver,
		ErrCustomerLimit, ErrPriceChanged, ErrKeyReused, ErrPrecondition, ErrBusy, ErrUnavailable, ErrUnknown, ErrInFlight} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// locked holds the lock until after the COMMIT: given back before it, the next
// holder would read stock that this order has already taken.
func (d *direct) locked(ctx context.Context, r Request) (Placed, error) {
	if d.cfg.Locker == nil {
		return d.once(ctx, r, nil)
	}
	lockIt := d.cfg.Locker.Lock
	if d.cfg.Strategy.Try {
		lockIt = d.cfg.Locker.TryLock
	}
	held, err := d.take(ctx, r.SKU, lockIt)
	if err != nil {
		return Placed{}, fmt.Errorf("lock %s: %w", r.SKU, err)
	}
	defer d.giveBack(ctx, r.SKU, held, time.Now())
	if d.cfg.Fence == strategy.FenceOff {
		return d.once(ctx, r, held)
	}
	return d.fenced(ctx, r, held)
}

// take takes the lock, by way of lockIt.
func (d *direct) take(ctx context.Context, sku string, lockIt func(context.Context, string) (lock.Held, error)) (lock.Held, error) {
	began := time.Now()
	leave, err := d.lines.enter(ctx, sku)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, end := d.cfg.step(ctx, "lock wait", ofSKU(sku))
	held, err := lockIt(ctx, sku)
	end(err)
	if err == nil {
		d.cfg.Metrics.LockWait.Observe(time.Since(began).Seconds())
		d.cfg.Metrics.Held.Inc()
	}
	return held, err
}

// giveBack unlocks. What was done under the lock stands whatever becomes of it.
func (d *direct) giveBack(ctx context.Context, sku string, held lock.Held, granted time.Time) {
	defer func() {
		d.cfg.Metrics.Held.Dec()
		d.cfg.Metrics.LockHold.Observe(time.Since(granted).Seconds())
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	if err := held.Unlock(ctx); err != nil {
		d.cfg.Metrics.LockLosses.Inc()
		d.cfg.Logger.WarnContext(ctx, "unlock", "sku", sku, "error", err)
	}
}

// lastLook gives an order up whose lock is known to be lost, before anything is
// written. Whatever holds the process or a packet up after it, no look can see:
// that is the fence's to refuse.
func (d *direct) lastLook(held lock.Held) error {
	if held != nil {
		select {
		case <-held.Lost():
			return fmt.Errorf("%w: %w", errTryAgain, lock.ErrLost)
		default:
		}
	}
	d.cfg.At(BeforeWrite)
	return nil
}

// once runs the order's transaction without a fence. A refusal is only final
// when no order stands under the key: a replay comes before every refusal.
func (d *direct) once(ctx context.Context, r Request, held lock.Held) (Placed, error) {
	writer := stock.Writer{
		Way: d.cfg.Strategy.Write, ThinkTime: d.cfg.ThinkTime,
		LastLook: func() error { return d.lastLook(held) },
	}
	id := newID()
	if d.cfg.Units != nil {
		err := d.refusedUnits(ctx, &r)
		if err == nil {
			err = d.takeUnits(ctx, r.SKU, id, r.Quantity)
		}
		if err != nil {
			return d.outcome(ctx, &r, Order{}, err)
		}
	}
	var order Order
	err := d.cfg.DB.InTx(ctx, func(conn *sql.Conn) error {
		row, takeErr := writer.Take(ctx, conn, r.SKU, r.Quantity)
		if takeErr != nil && !errors.Is(takeErr, stock.ErrShort) {
			return takeErr
		}
		if err := onSale(&row, row.Now, &r); err != nil {
			return err
		}
		if takeErr != nil {
			return short(row.Available)
		}
		if err := withinLimit(ctx, conn, &row, &r); err != nil {
			return err
		}
		order = d.cfg.makeOrder(&r, id, &row, row.Now, 0)
		return insert(ctx, conn, &order)
	})
	placed, err := d.outcome(ctx, &r, order, err)
	if d.cfg.Units != nil && placed.Order.ID != id && !errors.Is(err, ErrUnknown) {
		d.startReturn(ctx, r.SKU, id, func() {})
	}
	return placed, err
}

// fenced runs the order under its lock's token, in two round trips: what is read
// is read in one packet with the claim, and the transaction is another. So no
// row is locked while this process has the word. A read inside the transaction
// would do with the claim's row lock what the fence is for, and a process that
// stops there would keep it from its successor.
func (d *direct) fenced(ctx context.Context, r Request, held lock.Held) (Placed, error) {
	tenure := stock.Claim{SKU: r.SKU, Token: held.Token(), Fence: d.cfg.Fence}
	if tenure.Token == 0 {
		return Placed{}, errNoToken
	}
	var order Order
	err := func() error {
		row, err := tenure.Begin(ctx, d.cfg.DB)
		if err != nil {
			return err
		}
		asOf := time.Now()
		if err := onSale(&row, row.Now, &r); err != nil {
			return err
		}
		if row.Available < int64(r.Quantity) {
			return short(row.Available)
		}
		if row.PerCustomerLimit != nil {
			err := d.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error { return withinLimit(ctx, conn, &row, &r) })
			if err != nil {
				return err
			}
		}
		if err := d.lastLook(held); err != nil {
			return err
		}
		if err := stock.Think(ctx, d.cfg.ThinkTime); err != nil {
			return err
		}
		before := row
		row.Available -= int64(r.Quantity)
		row.Seq++
		order = d.cfg.makeOrder(&r, newID(), &row, row.Now.Add(time.Since(asOf)), tenure.RecordedToken())
		return d.committer.commit(ctx, &write{tenure: tenure, row: before, units: int64(r.Quantity), orders: []*Order{&order}, alone: true})
	}()
	if errors.Is(err, stock.ErrFenced) {
		d.cfg.Metrics.Fenced.Inc()
		return Placed{}, fmt.Errorf("%w: %w", errTryAgain, err)
	}
	return d.outcome(ctx, &r, order, err)
}

// outcome answers a request whose transaction ended with err.
func (d *direct) outcome(ctx context.Context, r *Request, order Order, err error) (Placed, error) {
	switch {
	case err == nil:
		return Placed{Order: order}, nil
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return d.resolve(ctx, r, order)
	case stock.IsDuplicate(err):
		return d.cfg.replay(ctx, r, errTryAgain) // or whoever had the key has rolled back
	case isRefusal(err):
		return d.cfg.replay(ctx, r, err)
	}
	return Placed{}, err
}

func isRefusal(err error) bool {
	for _, refusal := range []error{ErrSoldOut, ErrInsufficient, ErrNotOpen, ErrOver, ErrCustomerLimit, ErrPriceChanged} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// withinLimit reads what the customer holds. Two orders of one customer cannot
// both pass: the stock row is locked, or claimed and compared when it is written.
// (Compared on write alone, they can: that fence is here to be seen through.)
func withinLimit(ctx context.Context, conn *sql.Conn, row *stock.Row, r *Request) error {
	if row.PerCustomerLimit == nil {
		return nil
	}
	held, err := heldBy(ctx, conn, r.SKU, []string{r.Customer})
	if err != nil {
		return err
	}
	if held[r.Customer]+int64(r.Quantity) > int64(*row.PerCustomerLimit) {
		return ErrCustomerLimit
	}
	return nil
}

// resolve finds out whether an order was made whose COMMIT went unanswered.
func (d *direct) resolve(ctx context.Context, r *Request, o Order) (Placed, error) {
	d.cfg.Metrics.Unknown.Inc()
	found, err := settle(ctx, d.cfg.DB, r.SKU, []ID{o.ID})
	if err != nil {
		return Placed{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if !found[o.ID] {
		return Placed{}, errTryAgain
	}
	return Placed{Order: o}, nil
}

// alter takes the lock where the strategy has one: an order that has read the row
// would otherwise write over the change. It waits for it, whatever orders do.
func (d *direct) alter(ctx context.Context, sku string, c change) error {
	if err := d.cfg.Halted(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.RequestTimeout)
	defer cancel()
	if d.cfg.Locker != nil {
		held, err := d.take(ctx, sku, d.cfg.Locker.Lock)
		if err != nil {
			return classify(fmt.Errorf("lock %s: %w", sku, err))
		}
		defer d.giveBack(ctx, sku, held, time.Now())
	}
	var outcome error
	d.cfg.apply(ctx, sku, []change{c}, func(_ int, err error) { outcome = err })
	return outcome
}

// close waits for what is given back.
func (d *direct) close(ctx context.Context) error {
	d.end()
	done := make(chan struct{})
	go func() { d.returning.Wait(); close(done) }() // bounded by returnTimeout
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("give units back: %w", ctx.Err())
	}
}
