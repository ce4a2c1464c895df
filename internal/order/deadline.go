package order

import (
	"sync"
	"time"
)

// deadlines tell orders that their time is over. Those that came within the same
// few milliseconds share one channel and one timer: a context.WithTimeout for
// each costs more than the rest of its way through the desk.
type deadlines struct {
	after time.Duration

	mu      sync.Mutex
	current chan struct{}
	until   time.Time // when current is no longer given out
}

// deadlineStep is how much earlier than the request timeout an order may expire:
// far less than anybody sets that to.
const deadlineStep = 10 * time.Millisecond

// next returns a channel that is closed once the request timeout is over, or up
// to deadlineStep before.
func (d *deadlines) next() <-chan struct{} {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil || now.After(d.until) {
		c := make(chan struct{})
		// It is never stopped: it holds nothing but its channel.
		time.AfterFunc(d.after, func() { close(c) })
		d.current, d.until = c, now.Add(deadlineStep)
	}
	return d.current
}
