package order

import (
	"sync"
	"time"
)

// expiries tell orders that their time is over. Those that came within the same
// few milliseconds share one channel and one timer: a context.WithTimeout for
// each costs more than the rest of its way through the desk.
type expiries struct {
	after time.Duration

	mu      sync.Mutex
	current chan struct{}
	until   time.Time // when current is no longer given out
}

// expiryStep is how much earlier than the request timeout an order may expire:
// far less than anybody sets that to.
const expiryStep = 10 * time.Millisecond

// next returns a channel that is closed once the request timeout is over, or up
// to expiryStep before.
func (e *expiries) next() <-chan struct{} {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.current == nil || now.After(e.until) {
		c := make(chan struct{})
		// It is never stopped: it holds nothing but its channel.
		time.AfterFunc(e.after, func() { close(c) })
		e.current, e.until = c, now.Add(expiryStep)
	}
	return e.current
}
