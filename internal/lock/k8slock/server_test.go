package k8slock

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// patience bounds the waits of a test.
const patience = 20 * time.Second

// opened makes a Locker. The test's end closes it.
func opened[L lock.Locker](tb testing.TB, newLocker func(Config) (L, error), cfg Config) L {
	tb.Helper()
	l, err := newLocker(cfg)
	return locktest.Opened(tb, l, err)
}

func (s *server) stock(tb testing.TB, with Config) *StockLocker {
	tb.Helper()
	return opened(tb, NewStock, s.config(with))
}

func (s *server) lease(tb testing.TB, with Config) *LeaseLocker {
	tb.Helper()
	return opened(tb, NewLease, s.config(with))
}

// config returns the test's configuration, with the TTL and REST of with.
func (s *server) config(with Config) Config {
	cfg := testConfig(s.account)
	cfg.TTL = cmp.Or(with.TTL, noticeTTL)
	if with.REST != nil {
		cfg.REST = with.REST
	}
	return cfg
}

// lockError returns the error of a call that must not wait.
func lockError(tb testing.TB, call func(context.Context, string) (lock.Held, error)) error {
	tb.Helper()
	return lockErrorOf(tb, call, "refused")
}

func lockErrorOf(tb testing.TB, call func(context.Context, string) (lock.Held, error), name string) error {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	_, err := call(ctx, name)
	if errors.Is(err, context.DeadlineExceeded) {
		tb.Error("the call waited until its deadline")
	}
	return err
}
