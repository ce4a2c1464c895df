// Package processlock is a lock between the goroutines of one process, in order
// of arrival. It knows nothing of other processes: two replicas of a service
// that use it exclude each other not at all, which is what it is there to show.
// It is also the gate before locks that let a process in twice.
package processlock

import (
	"container/list"
	"context"
	"sync"

	"flashsale/internal/lock"
)

// Capabilities are what this lock promises. It has no token: nothing outside
// the process would know it.
var Capabilities = lock.Capabilities{Fair: true, Deadline: true, Wanted: true, Queue: true}

// Locker is a lock.Locker for the goroutines of one process.
type Locker struct {
	mu     sync.Mutex
	closed bool
	queues map[string]*queue // of the names that are held
}

// queue is who holds a name, and who waits for it.
type queue struct {
	holder  *held
	waiting list.List // of *held, the next one first
}

// New makes a Locker.
func New() *Locker { return &Locker{queues: map[string]*queue{}} }

// Lock waits for its turn. A waiter whose context ends leaves the queue at once.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, place, err := l.queueUp(name, true)
	if err != nil {
		return nil, err
	}
	select {
	case <-h.turn:
	case <-ctx.Done():
		l.leave(h, place)
		return nil, ctx.Err()
	}
	if h.refused {
		return nil, lock.ErrClosed
	}
	return h, nil
}

// TryLock takes name if nobody holds it.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, _, err := l.queueUp(name, false)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Close ends all grants and refuses all waiters.
func (l *Locker) Close(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for name, q := range l.queues {
		close(q.holder.lost)
		for e := q.waiting.Front(); e != nil; e = e.Next() {
			h := e.Value.(*held)
			h.refused = true
			close(h.turn)
		}
		delete(l.queues, name)
	}
	return nil
}

// queueUp makes a holder of name, or with wait a waiter for it.
func (l *Locker) queueUp(name string, wait bool) (*held, *list.Element, error) {
	if err := lock.CheckName(name); err != nil {
		return nil, nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, lock.ErrClosed
	}
	h := &held{
		locker: l, name: name,
		turn: make(chan struct{}), lost: make(chan struct{}), wanted: make(chan struct{}),
	}
	q := l.queues[name]
	if q == nil {
		l.queues[name] = &queue{holder: h}
		close(h.turn)
		return h, nil, nil
	}
	if !wait {
		return nil, nil, lock.ErrHeld
	}
	place := q.waiting.PushBack(h)
	q.tell()
	return h, place, nil
}

// leave takes a waiter out of its queue. Had its turn just come, it passes on.
func (l *Locker) leave(h *held, place *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[h.name]
	switch {
	case q == nil: // closed
	case q.holder == h:
		l.passOn(h.name, q)
	default:
		q.waiting.Remove(place)
	}
}

// passOn makes the next waiter the holder.
func (l *Locker) passOn(name string, q *queue) {
	next := q.waiting.Front()
	if next == nil {
		delete(l.queues, name)
		return
	}
	q.holder = q.waiting.Remove(next).(*held)
	close(q.holder.turn)
	q.tell()
}

// tell lets the holder know that another waits, once.
func (q *queue) tell() {
	if q.waiting.Len() > 0 && !q.holder.told {
		q.holder.told = true
		close(q.holder.wanted)
	}
}

// held is a waiter, and later a grant.
type held struct {
	locker *Locker
	name   string
	turn   chan struct{} // closed when it holds, or is refused
	lost   chan struct{}
	wanted chan struct{}

	// These are guarded by the Locker; refused may be read after turn.
	refused, told bool
}

func (h *held) Token() lock.Token       { return 0 }
func (h *held) Lost() <-chan struct{}   { return h.lost }
func (h *held) Wanted() <-chan struct{} { return h.wanted }

// Unlock passes the lock on to the next waiter.
func (h *held) Unlock(context.Context) error {
	l := h.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.queues[h.name]
	if q == nil || q.holder != h {
		return lock.ErrLost
	}
	l.passOn(h.name, q)
	return nil
}
