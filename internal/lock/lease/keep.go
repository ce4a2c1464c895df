// Package lease is what the locks that end by a lease have in common: the
// renewal, the local expiry by the monotonic clock, the wait between two tries,
// the taking back of what was asked for in vain, and the gate that lets one
// goroutine of a process at a time to the server.
//
// A back-end whose server can only be asked "is it free?" is a Store of three
// calls; New makes a lock.Locker of it. One with a queue of its own on the
// server uses Keep alone.
package lease

import (
	"context"
	"errors"
	"sync"
	"time"

	"flashsale/internal/lock"
)

const (
	// renewals a TTL: one may fail and a second still comes in time.
	renewals = 3
	// marginShare of the TTL is kept between our deadline and the server's. It
	// is far above what two clocks part by in a TTL (100 ppm of 5 s is half a
	// millisecond): it is there so that a holder which runs hears of its loss,
	// and can stop what it does, before the next one is granted.
	marginShare = 10
)

// Renew extends a lease on its server by its TTL. lock.ErrLost says that it has
// ended there for good; after any other error it is tried again in time.
type Renew func(ctx context.Context) error

// Kept is a lease that is renewed until it is lost or stopped.
type Kept struct {
	ttl    time.Duration
	renew  Renew
	onLost func() // called once, after lost is closed
	lost   chan struct{}
	stop   context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	deadline time.Time // by the monotonic clock
	isLost   bool
}

// Keep renews a lease of so long, that was asked for at that time: the time
// before the call, since the server may have counted from any moment after it.
//
// It ends with Stop, or by itself once it is lost.
func Keep(ttl time.Duration, asked time.Time, renew Renew) *Kept {
	return keep(ttl, asked, renew, func() {})
}

func keep(ttl time.Duration, asked time.Time, renew Renew, onLost func()) *Kept {
	ctx, stop := context.WithCancel(context.Background())
	k := &Kept{
		ttl: ttl, renew: renew, onLost: onLost, deadline: asked.Add(ttl - ttl/marginShare),
		lost: make(chan struct{}), ended: make(chan struct{}), stop: stop,
	}
	go k.run(ctx)
	return k
}

// Lost is closed once the lease can no longer be relied on. After Stop it is
// left as it is.
func (k *Kept) Lost() <-chan struct{} { return k.lost }

// Alive says whether the lease can be relied on at this moment. It is right also
// where Lost is late: after a pause of the whole process.
func (k *Kept) Alive() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.isLost && time.Now().Before(k.deadline)
}

// Stop ends the renewal and waits until none is under way, so that none comes
// after a release. It says whether the lease was alive until then. It waits no
// longer than a renewal takes to heed its context.
func (k *Kept) Stop() (alive bool) {
	k.stop()
	<-k.ended
	return k.Alive()
}

// Lose ends the lease from outside: its holder knows that it is gone.
func (k *Kept) Lose() {
	k.stop() // a renewal that is under way as well
	k.mu.Lock()
	first := !k.isLost
	k.isLost = true
	k.mu.Unlock()
	if first {
		close(k.lost)
		k.onLost()
	}
}

func (k *Kept) left() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Until(k.deadline)
}

func (k *Kept) run(ctx context.Context) {
	defer close(k.ended)
	defer k.stop()
	// A timer of its own: a renewal that hangs must not delay the loss.
	expiry := time.AfterFunc(k.left(), k.expire)
	defer expiry.Stop()
	ticker := time.NewTicker(k.ttl / renewals)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		asked := time.Now()
		// Within this time it succeeds, or the next one may on another node.
		try, cancel := context.WithTimeout(ctx, k.ttl/renewals)
		err := k.renew(try)
		cancel()
		switch {
		case errors.Is(err, lock.ErrLost):
			k.Lose()
		case err == nil && ctx.Err() == nil:
			if !k.extend(asked) {
				k.Lose()
				return
			}
			expiry.Reset(k.left())
		}
	}
}

// extend moves the deadline, unless it has passed: whoever has asked since was
// told that the lease is over, and that stands.
func (k *Kept) extend(asked time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !time.Now().Before(k.deadline) {
		return false
	}
	k.deadline = asked.Add(k.ttl - k.ttl/marginShare)
	return true
}

// expire gives the lease up once its deadline has passed. It may find that it
// has been moved.
func (k *Kept) expire() {
	if k.left() <= 0 {
		k.Lose()
	}
}
