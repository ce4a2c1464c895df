package order

import (
	"context"
	"errors"
	"fmt"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
)

// change is a write to a SKU's row that sells nothing. One of the two is set.
type change struct {
	// write makes it, and tells by its error what became of it.
	write func(context.Context) error
	// cancel is an order whose units return. Those that wait together are written
	// as one.
	cancel *ID
}

// apply makes changes of one SKU, within commitTimeout for all of them: a row that
// a stranger has locked must not be waited for by each. It tells the outcome of
// each; one that was not begun is ErrUnavailable.
func (cfg *Config) apply(ctx context.Context, sku string, changes []change, tell func(i int, err error)) {
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
		_, cancelErr = returnUnits(ctx, cfg.DB, returning{sku: sku, to: Cancelled, ids: cancelled})
	}
	for i, c := range changes {
		switch {
		case c.cancel != nil:
			tell(i, altered(cancelErr))
		case ctx.Err() != nil:
			tell(i, fmt.Errorf("%w: the changes before it took too long", ErrUnavailable))
		default:
			tell(i, altered(retried(func() error { return c.write(ctx) })))
		}
	}
}

// altered makes what became of a change one of this package's errors.
func altered(err error) error {
	switch {
	case err == nil, isKnown(err):
		return err
	case errors.Is(err, stock.ErrOutcomeUnknown):
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// retried runs f again when the server gave its transaction up.
func retried(f func() error) error {
	var err error
	for range batchAttempts {
		if err = f(); !stock.IsRetryable(err) {
			return err
		}
	}
	return err
}

// until runs f again and again until it knows what became of a change, or the
// request timeout is over. An f that may be repeated returns ErrUnknown to be
// asked again; once it has, nothing but its certainty makes that ErrUnavailable.
func (s *Service) until(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	var unknown error
	for wait := settleWait; ; wait = min(2*wait, settleMaxWait) {
		err := f(ctx)
		switch {
		case errors.Is(err, ErrUnknown):
			unknown = err
		case unknown != nil && (errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy)):
			// Not this time, but perhaps the time before.
		default:
			return err
		}
		if sleep.For(ctx, wait) != nil {
			return unknown
		}
	}
}
