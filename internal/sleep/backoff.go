package sleep

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Backoff is the wait between attempts: Min at first, doubled after each attempt
// up to Max, and jittered.
type Backoff struct {
	Min, Max time.Duration

	next time.Duration // zero means Min
}

// Next returns the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	wait := max(b.next, b.Min)
	b.next = min(2*wait, b.Max)
	return Jittered(wait)
}

// Reset makes the next wait Min again.
func (b *Backoff) Reset() { b.next = 0 }

// Retry calls attempt until it returns nil or an error that is not transient. It
// waits between the calls, and starts over with Min after an attempt that lasted
// longer than Max. When ctx ends, it returns ctx's cause and, as text, the last
// transient error. It does not interrupt attempt.
func (b Backoff) Retry(ctx context.Context, transient func(error) bool, attempt func() error) error {
	var last error
	for {
		began := time.Now()
		err := attempt()
		switch {
		case err == nil || !transient(err):
			return err
		case ctx.Err() != nil:
			return Cause(ctx, cmp.Or(last, err))
		}
		last = err
		if time.Since(began) > b.Max {
			b.Reset()
		}
		if For(ctx, b.Next()) != nil {
			return Cause(ctx, last)
		}
	}
}

// Cause returns the cause of ctx's end and, as text, the last error before it, if
// any. It does not wrap last: a caller must not mistake the time-out of an attempt
// for its own.
func Cause(ctx context.Context, last error) error {
	if last == nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w (%s)", context.Cause(ctx), last.Error())
}
