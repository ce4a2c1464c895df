// Package sleep waits for a time, and no longer than a context lasts. What is
// waited for, and how much longer each time, is left to whoever waits.
package sleep

import (
	"context"
	"math/rand/v2"
	"time"
)

// For waits for d, or until ctx ends, whose error it then returns.
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

// Jittered is a wait of about d, from half of it to one and a half: all who lost
// one server must not come back together.
func Jittered(d time.Duration) time.Duration { return d/2 + rand.N(d) }
