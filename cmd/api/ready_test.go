package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/strategy"
)

// Each check writes to MySQL and to the lock server: calls of /readyz, which has no limit,
// must not multiply them.
func TestConcurrentReadinessCallsShareAFewChecks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const calls, took = 1000, 100 * time.Millisecond
		var checks atomic.Int32
		broken := errors.New("refused")
		s := &sharedCheck{check: func(context.Context) map[string]error {
			time.Sleep(took)
			if checks.Add(1) == 1 {
				return map[string]error{"mysql": nil}
			}
			return map[string]error{"mysql": broken}
		}}
		// 1,000 calls, one each millisecond: checks run for 100 ms, and their results are
		// used for 250 ms.
		var all sync.WaitGroup
		for range calls {
			all.Go(func() { s.get(t.Context()) })
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if got := checks.Load(); got != 3 {
			t.Errorf("%d calls in a second made %d checks, want 3", calls, got)
		}
		// At the same time.
		time.Sleep(readyFresh)
		checks.Store(0)
		for range calls {
			all.Go(func() {
				if err := s.get(t.Context())["mysql"]; err != nil {
					t.Errorf("got %v, want the result of the check under way", err)
				}
			})
		}
		all.Wait()
		if got := checks.Load(); got != 1 {
			t.Errorf("%d calls at once made %d checks, want 1", calls, got)
		}
		// A server that fails is seen after readyFresh.
		time.Sleep(readyFresh)
		if err := s.get(t.Context())["mysql"]; !errors.Is(err, broken) {
			t.Errorf("got %v after the result was old, want %v", err, broken)
		}
	})
}

// A caller that disconnects, or has little time, must not make the others' result.
func TestSharedCheckIgnoresTheCallersEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &sharedCheck{check: func(ctx context.Context) map[string]error {
			<-ctx.Done() // a server that hangs
			return map[string]error{"mysql": ctx.Err()}
		}}
		gone, leave := context.WithCancel(t.Context())
		leave()
		began := time.Now()
		if err := s.get(gone)["mysql"]; !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != readyTimeout {
			t.Errorf("got %v after %s, want %v after %s", err, time.Since(began), context.DeadlineExceeded, readyTimeout)
		}
	})
}

// Readiness for selling and for reading share no result: their servers differ.
func TestReadinessOfEachKindIsShared(t *testing.T) {
	t.Parallel()
	c := start(t, replicaConfig(newDSN(t), "a", strategy.Default))
	refused := func() int32 {
		var all sync.WaitGroup
		var n atomic.Int32
		for _, path := range []string{"/readyz", "/readyz?for=reading"} {
			for range 50 {
				all.Go(func() {
					if status, text, err := c.call("GET", path, "", "", ""); err != nil || status != http.StatusOK || !strings.Contains(text, `"mysql":"ok"`) {
						n.Add(1)
					}
				})
			}
		}
		all.Wait()
		return n.Load()
	}
	// On a busy machine a server may answer a check too late, but not each time.
	n := refused()
	for again := 0; n > 0 && again < 2; again++ {
		t.Logf("%d calls of a ready replica are not answered as ready", n)
		time.Sleep(readyFresh) // the next calls make new checks
		n = refused()
	}
	if n > 0 {
		t.Errorf("%d calls of a ready replica are not answered as ready, at the third try", n)
	}
	_, text, err := c.call("GET", "/readyz?for=reading", "", "", "")
	if err != nil || strings.Contains(text, "etcd") {
		t.Errorf("readiness for reading: %s, %v; want no result of the other kind", text, err)
	}
}
