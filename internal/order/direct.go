package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/record"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// direct is the seller that gives each order its own transaction, and lock if there is one.
type direct struct {
	cfg       *Config
	committer *committer // of orders that carry a token
	slots     slots
}

func newDirect(cfg *Config) *direct {
	return &direct{cfg: cfg, committer: newCommitter(cfg, nil), slots: slots{perSKU: lockSlots}}
}

const (
	lockSlots = 8 // how many orders for one SKU ask a server at the same time, per replica
	// directAttempts bounds how often an order is tried, each time under a new grant:
	// after the server rolled back a transaction, and after a grant was lost or fenced.
	directAttempts = 5
	directBackoff  = 10 * time.Millisecond // the longest wait; it separates transactions that deadlocked
)

var errTryAgain = errors.New("try again") // nothing was applied, and the next try may succeed

func (d *direct) sell(ctx context.Context, r Request) (Placed, error) {
	return d.retry(ctx, r, d.locked)
}

func (d *direct) retry(ctx context.Context, r Request, attempt func(context.Context, *Request) (Placed, error)) (Placed, error) {
	if err := d.cfg.Halted(); err != nil {
		return Placed{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.RequestTimeout)
	defer cancel()
	for try := 1; ; try++ {
		placed, err := attempt(ctx, &r)
		if again := stock.IsRetryable(err) || errors.Is(err, errTryAgain); !again || try == directAttempts || sleep.For(ctx, rand.N(directBackoff)) != nil {
			d.cfg.noteDecision(&r, &placed, err)
			return placed, domainError(err)
		}
	}
}

// locked holds the lock until after COMMIT. If it released the lock earlier, the next
// holder would read stock that this order has already taken.
func (d *direct) locked(ctx context.Context, r *Request) (Placed, error) {
	if d.cfg.Locker == nil {
		return d.unfenced(ctx, r, newID(), nil)
	}
	ask := d.cfg.Locker.Lock
	if d.cfg.Strategy.Try {
		ask = d.cfg.Locker.TryLock
	}
	d.cfg.At(BeforeLock)
	d.cfg.note(record.LockAsked, r.SKU, r, 0, nil)
	held, err := d.lock(ctx, r.SKU, ask)
	d.cfg.noteLock(r.SKU, r, held, err)
	if err != nil {
		return Placed{}, err
	}
	granted := time.Now()
	defer func() { d.cfg.noteUnlock(r.SKU, r, held, d.cfg.unlock(ctx, r.SKU, held, granted)) }()
	defer d.cfg.At(BeforeUnlock)
	if d.cfg.Fence == strategy.FenceOff {
		return d.unfenced(ctx, r, newID(), held)
	}
	return d.fenced(ctx, r, held)
}

// lock waits for a slot, and then takes the lock by calling ask.
func (d *direct) lock(ctx context.Context, sku string, ask func(context.Context, string) (lock.Held, error)) (lock.Held, error) {
	began := time.Now()
	leave, err := d.slots.enter(ctx, sku)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", sku, err)
	}
	defer leave()
	return d.cfg.lock(ctx, sku, began, ask)
}

// checkHeld returns an error if the lock is already lost. Only the fence can catch a pause
// of the process, or a delayed packet, after this check.
func (d *direct) checkHeld(held lock.Held) error {
	if held != nil && isClosed(held.Lost()) {
		return fmt.Errorf("%w: %w", errTryAgain, lock.ErrLost)
	}
	d.cfg.At(BeforeWrite)
	return nil
}

// sale is an order, and the available units that its write leaves.
type sale struct {
	Order
	left int64
}

func (d *direct) unfenced(ctx context.Context, r *Request, id ID, held lock.Held) (Placed, error) {
	writer := stock.Writer{
		Way: d.cfg.Strategy.Write, ThinkTime: d.cfg.ThinkTime,
		LastLook: func() error { return d.checkHeld(held) }, Saw: d.cfg.saw(r),
	}
	var made sale
	d.cfg.At(BeforeRead)
	err := d.cfg.DB.InTx(ctx, func(conn *sql.Conn) error {
		row, takeErr := writer.Take(ctx, conn, r.SKU, r.Quantity)
		if takeErr != nil && !errors.Is(takeErr, stock.ErrShort) {
			return takeErr
		}
		if err := checkSale(&row, row.Now, r); err != nil {
			return err
		}
		if takeErr != nil {
			return tooFew(row.Available)
		}
		if err := checkLimit(ctx, conn, &row, r); err != nil {
			return err
		}
		if err := d.checkUnpaid(ctx, conn, &row, r, true); err != nil {
			return err
		}
		made = sale{d.cfg.makeOrder(r, id, &row, row.Now, 0), row.Available}
		d.cfg.noteWrite(record.Wrote, 0, &made.Order, made.left, nil)
		var insert strings.Builder
		insertOrders(&insert, []*write{{orders: []*Order{&made.Order}}})
		if _, err := conn.ExecContext(ctx, insert.String()); err != nil {
			return fmt.Errorf("insert order: %w", err)
		}
		d.cfg.At(BeforeCommit)
		return nil
	})
	d.cfg.noteCommit(0, &made.Order, made.left, err)
	return d.outcome(ctx, r, made, err)
}

// fenced runs the order under its lock's token, in two packets: one claims and reads,
// the other is the transaction. No row is locked between the two. A read inside the
// transaction would protect the row by its row lock instead of the fence, and a process
// that stopped there would block its successor.
func (d *direct) fenced(ctx context.Context, r *Request, held lock.Held) (Placed, error) {
	claim := stock.Claim{SKU: r.SKU, Token: held.Token(), Fence: d.cfg.Fence}
	if claim.Token == 0 {
		return Placed{}, errNoToken
	}
	if d.cfg.Fence == strategy.FenceClaim {
		d.cfg.At(BeforeClaim)
	} else {
		d.cfg.At(BeforeRead)
	}
	row, err := d.check(ctx, claim, r)
	asOf := time.Now()
	if err == nil {
		err = d.checkHeld(held)
	}
	if err == nil {
		err = sleep.For(ctx, d.cfg.ThinkTime)
	}
	var made sale
	if err == nil {
		before := row
		row.Available -= int64(r.Quantity)
		row.Seq++
		made = sale{d.cfg.makeOrder(r, newID(), &row, row.Now.Add(time.Since(asOf)), claim.RecordedToken()), row.Available}
		err = d.committer.commit(ctx, &write{claim: claim, row: before, units: int64(r.Quantity), orders: []*Order{&made.Order}, alone: true, maxUnpaid: d.cfg.MaxUnpaid})
		d.cfg.noteCommit(claim.Token, &made.Order, made.left, err)
	}
	if errors.Is(err, stock.ErrFenced) {
		d.cfg.Metrics.Fenced.Inc()
		return Placed{}, fmt.Errorf("%w: %w", errTryAgain, err)
	}
	return d.outcome(ctx, r, made, err)
}

// check claims and reads the row, and may refuse r.
func (d *direct) check(ctx context.Context, claim stock.Claim, r *Request) (stock.Row, error) {
	row, err := d.cfg.database.claim(ctx, claim)
	d.cfg.noteClaim(claim, r, &row, err)
	if err != nil {
		return row, err
	}
	if err := checkSale(&row, row.Now, r); err != nil {
		return row, err
	}
	if claim.Fence != strategy.FenceOff && row.Available < int64(r.Quantity) {
		return row, tooFew(row.Available)
	}
	if row.PerCustomerLimit == nil && d.cfg.MaxUnpaid == 0 {
		return row, nil
	}
	read := time.Now()
	err = d.cfg.DB.OnConn(ctx, func(conn *sql.Conn) error {
		if err := checkLimit(ctx, conn, &row, r); err != nil {
			return err
		}
		return d.checkUnpaid(ctx, conn, &row, r, false)
	})
	row.Now = row.Now.Add(time.Since(read))
	return row, err
}

// checkLimit reads what the customer holds. Two orders of one customer cannot both
// pass, because the stock row is locked, or is claimed and compared on write. (Under
// FenceWrite they can: that fence is only there to show its weakness.)
func checkLimit(ctx context.Context, conn *sql.Conn, row *stock.Row, r *Request) error {
	if row.PerCustomerLimit == nil {
		return nil
	}
	held, err := heldBy(ctx, conn, r.SKU, row.HoldPolicy, []string{r.Customer})
	if n, limit := int64(r.Quantity), int64(*row.PerCustomerLimit); err == nil && held[r.Customer].units+n > limit {
		err = held[r.Customer].overLimit(n, limit)
	}
	return err
}

// checkUnpaid counts the customer's unpaid orders. With takeTurns, which is for the
// transaction of the order, the count stays exact until COMMIT.
func (d *direct) checkUnpaid(ctx context.Context, conn *sql.Conn, row *stock.Row, r *Request, takeTurns bool) error {
	if d.cfg.MaxUnpaid == 0 || row.PriceCents == 0 {
		return nil
	}
	if takeTurns {
		if _, err := conn.ExecContext(ctx, turnOf([]string{r.Customer})); err != nil {
			return fmt.Errorf("lock the customer: %w", err)
		}
	}
	unpaid, err := unpaidOf(ctx, conn, []string{r.Customer})
	if err == nil && unpaid[r.Customer] >= d.cfg.MaxUnpaid {
		err = ErrTooManyUnpaid
	}
	return err
}

func (d *direct) outcome(ctx context.Context, r *Request, made sale, err error) (Placed, error) {
	switch {
	case err == nil:
		return Placed{Order: made.Order}, nil
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return d.resolve(ctx, r, made)
	case stock.IsDuplicate(err): // if the other order was rolled back since, try again
		return replayOr(ctx, d.cfg.database, r, errTryAgain)
	case isAny(err, orderRefusals): // a replay takes precedence over every refusal
		return replayOr(ctx, d.cfg.database, r, err)
	}
	return Placed{}, err
}

func (d *direct) resolve(ctx context.Context, r *Request, made sale) (Placed, error) {
	d.cfg.Metrics.Unknown.Inc()
	found, err := settle(ctx, d.cfg.database, r.SKU, []ID{made.ID})
	if err != nil {
		return Placed{}, unknown(err)
	}
	if len(found) == 0 {
		return Placed{}, errTryAgain
	}
	d.cfg.noteCommit(lock.Token(made.Fence), &made.Order, made.left, nil)
	return Placed{Order: made.Order}, nil
}

// alter waits for the lock if the strategy has one: otherwise an order that has already
// read the row could overwrite the change.
func (d *direct) alter(ctx context.Context, sku string, c change) error {
	if err := d.cfg.Halted(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.RequestTimeout)
	defer cancel()
	if d.cfg.Locker != nil {
		held, err := d.lock(ctx, sku, d.cfg.Locker.Lock)
		if err != nil {
			return domainError(err)
		}
		granted := time.Now()
		defer func() { _ = d.cfg.unlock(ctx, sku, held, granted) }()
	}
	var outcome error
	d.cfg.apply(ctx, sku, []change{c}, func(_ int, err error) { outcome = err })
	return outcome
}

func (d *direct) close(context.Context) error { return nil }

// slots bound how many calls for each SKU run at the same time. The others wait.
type slots struct {
	perSKU int
	bySKU  sync.Map // SKU -> chan struct{}; only for existing SKUs, so that it is bounded
}

func (s *slots) enter(ctx context.Context, sku string) (leave func(), err error) {
	of, ok := s.bySKU.Load(sku)
	if !ok {
		of, _ = s.bySKU.LoadOrStore(sku, make(chan struct{}, s.perSKU))
	}
	taken := of.(chan struct{})
	select {
	case taken <- struct{}{}:
		return func() { <-taken }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
