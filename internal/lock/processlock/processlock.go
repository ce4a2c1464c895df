// Package processlock is a lock between the goroutines of one process, in order of arrival.
// It does not exclude other processes; the strategy "process" shows what goes wrong then.
// Package lease uses it as a gate: for each name, only one goroutine of the process
// at a time asks the lock server for it or holds it.
package processlock

import (
	"container/list"
	"context"
	"sync"

	"flashsale/internal/lock"
)

// Capabilities are those of a Locker. Its grants have no token: each process would count
// its own tokens, so a store outside could not compare those of two processes.
var Capabilities = lock.Capabilities{Fair: true, Deadline: true, Contended: true, Queue: true}

// Locker is a lock.Locker for the goroutines of one process.
type Locker struct {
	mu     sync.Mutex
	closed bool
	queues map[string]*list.List // of *held by name: the holder, then the waiters
}

// New makes a Locker.
func New() *Locker { return &Locker{queues: map[string]*list.List{}} }

// Lock waits for its turn. A waiter whose context ends leaves the queue at once.
func (l *Locker) Lock(ctx context.Context, name string) (lock.Held, error) {
	h, err := l.enter(ctx, name, true)
	if err != nil {
		return nil, err
	}
	select {
	case <-h.turn:
	case <-ctx.Done():
		h.leave()
		return nil, ctx.Err()
	}
	if h.refused {
		return nil, lock.ErrClosed
	}
	return h, nil
}

// TryLock takes name if it is free.
func (l *Locker) TryLock(ctx context.Context, name string) (lock.Held, error) {
	h, err := l.enter(ctx, name, false)
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
		for e := q.Front(); e != nil; e = e.Next() {
			h := e.Value.(*held)
			h.ended = true
			if e == q.Front() {
				close(h.lost)
			} else {
				h.refused = true
				close(h.turn)
			}
		}
		delete(l.queues, name)
	}
	return nil
}

// enter adds a caller to the queue of name. Without wait, it returns
// ErrHeld unless the lock is free.
func (l *Locker) enter(ctx context.Context, name string, wait bool) (*held, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := lock.CheckName(name); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, lock.ErrClosed
	}
	q := l.queues[name]
	if q != nil && !wait {
		return nil, lock.ErrHeld
	}
	h := &held{locker: l, name: name, turn: make(chan struct{}), lost: make(chan struct{}), contended: make(chan struct{})}
	if q == nil {
		q = list.New()
		l.queues[name] = q
		close(h.turn)
	}
	h.place = q.PushBack(h)
	notify(q)
	return h, nil
}

// notify closes Contended of the holder when there is a waiter.
func notify(q *list.List) {
	if holder := q.Front().Value.(*held); q.Len() > 1 && !holder.notified {
		holder.notified = true
		close(holder.contended)
	}
}

// held is a waiter, and later a grant.
type held struct {
	locker    *Locker
	name      string
	turn      chan struct{} // closed when it holds the lock or is refused
	lost      chan struct{}
	contended chan struct{}

	// These are guarded by locker.mu. refused may be read without
	// it once turn is closed.
	place                    *list.Element
	refused, notified, ended bool
}

func (h *held) Token() lock.Token          { return 0 }
func (h *held) Lost() <-chan struct{}      { return h.lost }
func (h *held) Contended() <-chan struct{} { return h.contended }

// Unlock passes the lock on to the next waiter.
func (h *held) Unlock(context.Context) error {
	if !h.leave() {
		return lock.ErrLost
	}
	return nil
}

// leave removes h from the queue. If it was the holder, the next waiter becomes the holder.
// It reports whether h was in the queue.
func (h *held) leave() bool {
	l := h.locker
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.ended {
		return false
	}
	h.ended = true
	q := l.queues[h.name]
	wasHolder := q.Front() == h.place
	q.Remove(h.place)
	if q.Len() == 0 {
		delete(l.queues, h.name)
		return true
	}
	if wasHolder {
		close(q.Front().Value.(*held).turn)
		notify(q)
	}
	return true
}
