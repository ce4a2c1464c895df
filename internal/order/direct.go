package order

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"flashsale/internal/stock"
)

// direct takes each order in a transaction of its own, under a lock of its own
// where the strategy has one.
type direct struct {
	cfg    *Config
	writer stock.Writer
}

const (
	// directAttempts bounds how often a transaction that the server gave up
	// (deadlock, lock wait) is run again.
	directAttempts = 5
	// directBackoff is the longest wait before it is: enough to part two that
	// deadlocked, little beside the lock wait itself.
	directBackoff = 10 * time.Millisecond
	// unlockTimeout bounds the giving back of a lock after its order is done,
	// when the request's own time may be over.
	unlockTimeout = time.Second
)

func (d *direct) sell(ctx context.Context, r Request) (Placed, error) {
	var lastErr error
	for range directAttempts {
		placed, err := d.locked(ctx, r)
		if !stock.IsRetryable(err) && !errors.Is(err, errTryAgain) {
			return placed, classify(err)
		}
		lastErr = err
		select {
		case <-time.After(rand.N(directBackoff)):
		case <-ctx.Done():
			return Placed{}, classify(err)
		}
	}
	return Placed{}, classify(lastErr)
}

// errTryAgain says that the transaction was rolled back for a reason that does
// not stand in the way of the next one.
var errTryAgain = errors.New("try again")

// classify makes what ended an order one of this package's errors.
func classify(err error) error {
	for _, known := range []error{nil, stock.ErrUnknownSKU, ErrSoldOut, ErrInsufficient, ErrNotOpen, ErrOver,
		ErrCustomerLimit, ErrKeyReused, ErrBusy, ErrUnavailable, ErrUnknown, ErrInFlight} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// locked holds the lock until after the COMMIT: given back before it, the next
// holder would read stock that this order has already taken.
func (d *direct) locked(ctx context.Context, r Request) (placed Placed, err error) {
	if d.cfg.Locker != nil {
		began := time.Now()
		held, err := d.cfg.Locker.Lock(ctx, r.SKU)
		if err != nil {
			return Placed{}, fmt.Errorf("lock %s: %w", r.SKU, err)
		}
		d.cfg.Metrics.LockWait.Observe(time.Since(began).Seconds())
		defer func() {
			free, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
			defer cancel()
			// The order's outcome stands whatever becomes of the lock.
			if unlockErr := held.Unlock(free); unlockErr != nil {
				d.cfg.Logger.Warn("unlock", "sku", r.SKU, "error", unlockErr)
			}
		}()
	}
	return d.once(ctx, r)
}

// once runs the order's transaction. A refusal is only final when no order
// stands under the key: a replay comes before every refusal.
func (d *direct) once(ctx context.Context, r Request) (Placed, error) {
	var order Order
	err := d.cfg.DB.InTx(ctx, func(conn *sql.Conn) error {
		row, takeErr := d.writer.Take(ctx, conn, r.SKU, r.Quantity)
		if takeErr != nil && !errors.Is(takeErr, stock.ErrShort) {
			return takeErr
		}
		if err := windowOpen(&row, row.Now); err != nil {
			return err
		}
		if takeErr != nil {
			return short(row.Available)
		}
		if err := withinLimit(ctx, conn, &row, &r); err != nil {
			return err
		}
		order = d.cfg.makeOrder(&r, newID(), &row, row.Now, 0)
		return insert(ctx, conn, &order)
	})
	switch {
	case err == nil:
		return Placed{Order: order}, nil
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return d.resolve(ctx, &r, order)
	case stock.IsDuplicate(err), isRefusal(err):
		return d.replay(ctx, &r, err)
	}
	return Placed{}, err
}

func isRefusal(err error) bool {
	for _, refusal := range []error{ErrSoldOut, ErrInsufficient, ErrNotOpen, ErrOver, ErrCustomerLimit} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// withinLimit reads what the customer holds, on a connection that has already
// locked the stock row: two orders of one customer cannot both pass.
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

// replay looks for the order that stands under r's key, after reason: a refusal,
// or a duplicate key.
func (d *direct) replay(ctx context.Context, r *Request, reason error) (Placed, error) {
	key := byKey{r.Customer, r.Key}
	var found map[byKey]Order
	err := d.cfg.DB.OnConn(ctx, func(conn *sql.Conn) (err error) {
		found, err = findByKeys(ctx, conn, []byKey{key})
		return err
	})
	if err != nil {
		return Placed{}, err
	}
	if o, ok := found[key]; ok {
		return replayOf(o, r)
	}
	if stock.IsDuplicate(reason) {
		return Placed{}, errTryAgain // whoever had the key has rolled back
	}
	return Placed{}, reason
}

// resolve finds out whether an order was made whose COMMIT went unanswered.
func (d *direct) resolve(ctx context.Context, r *Request, o Order) (Placed, error) {
	found, err := settle(ctx, d.cfg.DB, r.SKU, []ID{o.ID})
	if err != nil {
		return Placed{}, fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if !found[o.ID] {
		return Placed{}, errTryAgain
	}
	return Placed{Order: o}, nil
}

// alter needs no guard: nobody remembers a row from one order to the next.
func (d *direct) alter(ctx context.Context, _ string, change func(context.Context) error) error {
	return change(ctx)
}

func (d *direct) close(context.Context) error { return nil }
