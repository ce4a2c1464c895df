package sleep_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/sleep"
)

func TestForWaitsForItsDuration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := sleep.For(t.Context(), time.Hour); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("For took %s, want 1h", took)
		}
	})
}

func TestForEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := sleep.For(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("For returned %v, want %v", err, context.DeadlineExceeded)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("For took %s, want 1s", took)
		}
	})
}

func TestJitteredIsWithinHalfOfItsDuration(t *testing.T) {
	t.Parallel()
	for range 1000 {
		if got := sleep.Jittered(time.Second); got < time.Second/2 || got >= 3*time.Second/2 {
			t.Fatalf("Jittered returned %s, want 0.5s to 1.5s", got)
		}
	}
}
