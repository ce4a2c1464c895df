// Package lease is what the back-ends with leases share. Keep renews a lease and ends it
// locally by the monotonic clock. New makes a lock.Locker of a Store, a server that can
// only grant or refuse a name. The Locker polls, cleans up after lost answers, and admits
// one goroutine of a process at a time to the server.
package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"flashsale/internal/lock"
)

const (
	// renewals is the number of renewals in a TTL. If one fails, the next one still
	// comes in time.
	renewals = 3
	// marginShare of the TTL lies between the local deadline and the server's. It gives
	// a running holder time to stop; clocks differ far less (100 ppm of 5 s is 0.5 ms).
	marginShare = 10
)

// Lease is a lease that is renewed until it is lost or stopped.
type Lease struct {
	ttl    time.Duration
	renew  func(context.Context) error
	onLost func() // called once, after lost is closed
	lost   chan struct{}
	stop   context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	deadline time.Time // by the monotonic clock
	isLost   bool
}

// Keep renews a lease of length ttl. asked is the time before the request that
// got it, because the server may count from any moment after that. renew extends
// the lease by its TTL. It returns lock.ErrLost when the lease has ended on the
// server; Keep calls it again after any other error.
//
// The renewals end with Stop, or when the lease is lost.
func Keep(ttl time.Duration, asked time.Time, renew func(context.Context) error) *Lease {
	return keep(ttl, asked, renew, func() {})
}

func keep(ttl time.Duration, asked time.Time, renew func(context.Context) error, onLost func()) *Lease {
	ctx, stop := context.WithCancel(context.Background())
	l := &Lease{
		ttl: ttl, renew: renew, onLost: onLost, deadline: asked.Add(ttl - ttl/marginShare),
		lost: make(chan struct{}), ended: make(chan struct{}), stop: stop,
	}
	go l.run(ctx)
	return l
}

// Lost is closed when the lease can no longer be relied on. Stop does not close it.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Alive reports whether the lease can be relied on at this moment. It is right
// even when Lost is late, after a pause of the whole process.
func (l *Lease) Alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.isLost && time.Now().Before(l.deadline)
}

// Stop ends the renewals and waits for one in progress, so that none comes after a
// release. It reports whether the lease is alive. It waits no longer than renew
// needs to return after its context ends.
func (l *Lease) Stop() (alive bool) {
	l.stop()
	<-l.ended
	return l.Alive()
}

// Lose ends the lease, for a caller that knows that it is gone.
func (l *Lease) Lose() {
	l.stop() // cancels a renewal in progress
	l.mu.Lock()
	first := !l.isLost
	l.isLost = true
	l.mu.Unlock()
	if first {
		close(l.lost)
		l.onLost()
	}
}

func (l *Lease) remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.deadline)
}

func (l *Lease) run(ctx context.Context) {
	defer close(l.ended)
	defer l.stop()
	// A separate timer, because a renewal that hangs must not delay the loss.
	expiry := time.AfterFunc(l.remaining(), l.expire)
	defer expiry.Stop()
	ticker := time.NewTicker(l.ttl / renewals)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		asked := time.Now()
		// After this time, the next renewal may reach another node.
		attempt, cancel := context.WithTimeout(ctx, l.ttl/renewals)
		err := l.renew(attempt)
		cancel()
		switch {
		case errors.Is(err, lock.ErrLost):
			l.Lose()
		case err == nil && ctx.Err() == nil:
			if !l.extend(asked) {
				l.Lose()
				return
			}
			expiry.Reset(l.remaining())
		}
	}
}

// extend moves the deadline. It must not revive a lease whose deadline has passed,
// because Alive may have reported its end.
func (l *Lease) extend(asked time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !time.Now().Before(l.deadline) {
		return false
	}
	l.deadline = asked.Add(l.ttl - l.ttl/marginShare)
	return true
}

// expire loses the lease, unless a renewal has moved the deadline.
func (l *Lease) expire() {
	if l.remaining() <= 0 {
		l.Lose()
	}
}
