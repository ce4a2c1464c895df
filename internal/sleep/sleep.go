// Package sleep waits for a duration or until a context ends, and retries with
// growing waits.
package sleep

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d. It returns ctx's error if ctx ends first.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Jittered returns a random duration from d/2 to 3d/2, so that the clients of a
// failed server do not all come back at the same moment.
func Jittered(d time.Duration) time.Duration { return d/2 + rand.N(d) }
