package sleep_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/sleep"
)

var (
	errTransient = errors.New("server 192.0.2.1 is unreachable")
	errFinal     = errors.New("permission denied")
)

func isTransient(err error) bool { return !errors.Is(err, errFinal) }

func TestBackoffDoublesUpToMax(t *testing.T) {
	t.Parallel()
	b := sleep.Backoff{Min: time.Second, Max: 5 * time.Second}
	for round := range 2 {
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second} {
			if got := b.Next(); got < want/2 || got >= 3*want/2 {
				t.Errorf("round %d: wait %d is %s, want about %s", round, i, got, want)
			}
		}
		b.Reset()
	}
}

func TestRetryStopsAtSuccessAndAtAFinalError(t *testing.T) {
	t.Parallel()
	for _, want := range []error{nil, errFinal} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			err := sleep.Backoff{Min: time.Second, Max: time.Minute}.Retry(t.Context(), isTransient, func() error {
				if calls++; calls < 4 {
					return errTransient
				}
				return want
			})
			if !errors.Is(err, want) || calls != 4 {
				t.Errorf("Retry returned %v after %d calls, want %v after 4", err, calls, want)
			}
		})
	}
}

func TestRetryEndsWithItsContextAndNamesTheLastError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		err := sleep.Backoff{Min: time.Second, Max: time.Minute}.Retry(ctx, isTransient, func() error { return errTransient })
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTransient) || !strings.Contains(err.Error(), "192.0.2.1") {
			t.Errorf("Retry returned %v, want the deadline with the last error as text", err)
		}
		if took := time.Since(began); took != time.Hour {
			t.Errorf("Retry took %s, want 1h", took)
		}
	})
}

// TestRetryStartsOverAfterALongAttempt: the attempt worked for a while, so the
// server is no longer overloaded.
func TestRetryStartsOverAfterALongAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var failed time.Time
		err := sleep.Backoff{Min: time.Second, Max: time.Minute}.Retry(t.Context(), isTransient, func() error {
			switch calls++; calls {
			case 10:
				time.Sleep(2 * time.Minute)
				failed = time.Now()
			case 11:
				return nil
			}
			return errTransient
		})
		if took := time.Since(failed); err != nil || took >= 2*time.Second {
			t.Errorf("Retry returned %v after a wait of %s, want nil after about 1s", err, took)
		}
	})
}
