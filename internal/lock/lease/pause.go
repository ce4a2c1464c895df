package lease

import (
	"context"
	"math/rand/v2"
	"time"
)

// Jittered is a wait of about d, from half of it to one and a half: all who lost
// one server must not come back together.
func Jittered(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// Sleep waits for d, or until ctx ends, whose error it then returns.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
