package k8slock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"flashsale/internal/lock"
)

func TestEveryNameHasItsOwnObject(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{
		"SKU-1", "sku-1", "Sku-1", "sku_1", "sku.1", "-", ".", "..", "ü x", "ÜBER", "K", "\u212a", // the Kelvin sign, whose lower case is k
		strings.Repeat("n", lock.MaxName), strings.Repeat("n", lock.MaxName-1), strings.Repeat("ü", lock.MaxName/2),
	} {
		object, err := objectName(name)
		if err != nil {
			t.Errorf("objectName(%q): %v", name, err)
		}
		if wrong := validation.IsDNS1123Subdomain(object); wrong != nil {
			t.Errorf("%q has the object %q: %v", name, object, wrong)
		}
		if other, taken := seen[object]; taken {
			t.Errorf("%q and %q share the object %q", name, other, object)
		}
		seen[object] = name
	}
	for _, name := range []string{"", "a/b", "\xff", strings.Repeat("n", lock.MaxName+1)} {
		if object, err := objectName(name); err == nil {
			t.Errorf("%q has the object %q, want an error", name, object)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for what, cfg := range map[string]Config{
		"no server":    {Namespace: "n", TTL: time.Second},
		"no namespace": {REST: address{}.config(), TTL: time.Second},
		"no TTL":       {REST: address{}.config(), Namespace: "n"},
	} {
		if _, err := NewLease(cfg); err == nil {
			t.Errorf("NewLease with %s succeeded, want an error", what)
		}
		if _, err := NewStock(cfg); err == nil {
			t.Errorf("NewStock with %s succeeded, want an error", what)
		}
	}
}

// nowhere is an address without a server: only root can listen on the port.
const nowhere = "127.0.0.1:1"

// locker is the common interface of both kinds.
type locker interface {
	lock.Locker
	lock.Inspector
	Source(ctx context.Context) (string, error)
}

// kinds are the constructors of both kinds.
var kinds = map[string]func(Config) (locker, error){
	"lease":     func(cfg Config) (locker, error) { return NewLease(cfg) },
	"stocklock": func(cfg Config) (locker, error) { return NewStock(cfg) },
}

// TestAnUnreachableServer: Lock waits for it, TryLock does not, and both name it.
func TestAnUnreachableServer(t *testing.T) {
	t.Parallel()
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			l := opened(t, newLocker, testConfig(address{URL: "https://" + nowhere}))
			asked := time.Now()
			if _, err := l.TryLock(t.Context(), "n"); err == nil || errors.Is(err, lock.ErrHeld) || !strings.Contains(err.Error(), nowhere) {
				t.Errorf("TryLock: %v", err)
			}
			if took := time.Since(asked); took > patience/2 {
				t.Errorf("TryLock took %s", took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // long enough for one refused connection
			defer cancel()
			if _, err := l.Lock(ctx, "n2"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), nowhere) {
				t.Errorf("Lock: %v", err)
			}
		})
	}
}

// TestRequestsToADeadServerAreSpaced: the queue has work that is due, and that fails.
func TestRequestsToADeadServerAreSpaced(t *testing.T) {
	t.Parallel()
	l := opened(t, NewStock, testConfig(address{URL: "https://" + nowhere}))
	var err error
	// A busy machine may stop the test for longer than a pause.
	for end := time.Now().Add(patience); ; {
		if err = fivePauses(t, l); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Error(err)
	}
}

func fivePauses(t *testing.T, l *StockLocker) error {
	t.Helper()
	q := newQueue(l, "n", "lock-n")
	q.current = newStockLock("lock-n", "n")
	q.current.Status = record{ID: "dead-1", LeaseSeconds: 1}
	q.blocker = blocker{id: "dead-1", since: time.Now().Add(-time.Hour)}
	q.used = time.Now()
	var last time.Duration
	for range 5 {
		due := q.step(t.Context())
		if last = time.Until(due); last <= 0 {
			return fmt.Errorf("the next request was due %s ago", -last)
		}
	}
	if last < 4*backoff.Min {
		return fmt.Errorf("the fifth pause is %s, want at least four times the first", last)
	}
	return nil
}
