package order

import (
	"context"
	"errors"
	"fmt"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

// change is a write to a SKU's row that sells nothing. Exactly one field is set.
type change struct {
	write  func(context.Context) error // makes the change; its error tells the outcome
	cancel *ID                         // an order to cancel; all waiting ones share a transaction
}

// apply makes changes of one SKU and reports the outcome of each. commitTimeout bounds
// all of them together, because each may wait for the row's lock.
func (cfg *Config) apply(ctx context.Context, sku string, changes []change, report func(i int, err error)) {
	ctx, stop := context.WithTimeout(ctx, commitTimeout)
	defer stop()
	var cancelled []ID
	for _, c := range changes {
		if c.cancel != nil {
			cancelled = append(cancelled, *c.cancel)
		}
	}
	var cancelErr error
	if len(cancelled) > 0 {
		_, cancelErr = returnUnits(ctx, cfg.database, sku, Cancelled, cancelled)
	}
	for i, c := range changes {
		switch {
		case c.cancel != nil:
			report(i, domainError(cancelErr))
		case ctx.Err() != nil:
			report(i, fmt.Errorf("%w: the changes before it took too long", ErrUnavailable))
		default:
			report(i, domainError(retryRolledBack(func() error { return c.write(ctx) })))
		}
	}
}

// retryRolledBack repeats f if the server rolled its transaction back.
func retryRolledBack(f func() error) error {
	var err error
	for range batchAttempts {
		if err = f(); !stock.IsRetryable(err) {
			return err
		}
	}
	return err
}

// untilKnown repeats f until its outcome is known, or the request timeout is over. f
// must be repeatable. After one ErrUnknown, only a definite result replaces it: an
// ErrUnavailable of a later call says nothing about the earlier one.
func (s *Service) untilKnown(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	var earlier error
	for wait := settleWait; ; wait = min(2*wait, settleMaxWait) {
		err := f(ctx)
		switch {
		case errors.Is(err, ErrUnknown):
			earlier = err
		case earlier != nil && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy)):
		default:
			return err
		}
		if sleep.For(ctx, wait) != nil {
			return earlier
		}
	}
}
