package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// readyFresh is how long the result of a check is used for further calls. It is
	// shorter than the interval of any probe, so that each of them sees a new result.
	readyFresh = 250 * time.Millisecond
	// readyTimeout bounds a check. A slower server cannot serve orders.
	readyTimeout = 2 * time.Second
)

// errNotChecked is the result of a check that panicked.
var errNotChecked = errors.New("the check did not end")

// sharedCheck checks servers for many callers: calls at the same time, and those that come
// within readyFresh of a result, share it. Anyone may call /readyz, without a limit, while
// a check writes to the servers by the connections that orders use.
type sharedCheck struct {
	// check returns the error of each server, nil if it is ready. No caller changes the map.
	check func(context.Context) map[string]error

	mu     sync.Mutex
	newest *checkRun // nil before the first call
}

// checkRun is one check. What it found may be read once done is closed.
type checkRun struct {
	done  chan struct{}
	found map[string]error
	ended time.Time
}

// stale tells whether a new call needs a new check.
func (r *checkRun) stale() bool {
	select {
	case <-r.done:
		return time.Since(r.ended) >= readyFresh
	default:
		return false
	}
}

// get returns a result that is at most readyFresh old, within readyTimeout.
func (s *sharedCheck) get(ctx context.Context) map[string]error {
	s.mu.Lock()
	run := s.newest
	if run != nil && !run.stale() {
		s.mu.Unlock()
		<-run.done
		return run.found
	}
	run = &checkRun{done: make(chan struct{}), found: map[string]error{"replica": errNotChecked}}
	s.newest = run
	s.mu.Unlock()
	// The others do not wait for a caller's time, nor see its disconnect as a failure.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	defer close(run.done) // also if check panics
	run.found = s.check(ctx)
	run.ended = time.Now()
	return run.found
}
