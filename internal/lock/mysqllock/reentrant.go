package mysqllock

import (
	"context"
	"fmt"
	"sync"

	"flashsale/internal/lock"
)

// reentrant lets an owner named by lock.WithOwner lock again what it holds. The grant ends
// with the last Unlock.
type reentrant struct {
	lock.Locker

	mu     sync.Mutex
	grants map[grantKey]*grant
}

type grantKey struct{ name, owner string }

// grant is what an owner holds or is waiting for.
type grant struct {
	settled chan struct{} // closed when the first Lock has returned

	// These are guarded by reentrant.mu.
	held    lock.Held // nil until granted
	entries int
}

func (g *grant) lost() bool {
	if g.held == nil {
		return false
	}
	select {
	case <-g.held.Lost():
		return true
	default:
		return false
	}
}

func newReentrant(inner lock.Locker) *reentrant {
	return &reentrant{Locker: inner, grants: map[grantKey]*grant{}}
}

// Lock waits for its turn, unless the context's owner holds name already.
func (r *reentrant) Lock(ctx context.Context, name string) (lock.Held, error) {
	return r.enter(ctx, name, r.Locker.Lock, true)
}

// TryLock is Lock without waiting.
func (r *reentrant) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return r.enter(ctx, name, r.Locker.TryLock, false)
}

func (r *reentrant) enter(ctx context.Context, name string, take func(context.Context, string) (lock.Held, error), wait bool) (lock.Held, error) {
	key := grantKey{name, lock.OwnerOf(ctx)}
	if key.owner == "" {
		return take(ctx, name)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.grants[key]
	for ; g != nil && !g.lost(); g = r.grants[key] { // the entries of a lost grant keep it
		if g.held != nil {
			g.entries++
			return &entry{Held: g.held, of: r, key: key, grant: g}, nil
		}
		if !wait {
			return nil, fmt.Errorf("lock %s: %w", name, lock.ErrHeld)
		}
		r.mu.Unlock()
		select {
		case <-g.settled:
		case <-ctx.Done():
		}
		r.mu.Lock()
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
	}
	g = &grant{settled: make(chan struct{}), entries: 1}
	r.grants[key] = g
	r.mu.Unlock()
	held, err := take(ctx, name)
	r.mu.Lock()
	defer close(g.settled)
	if err != nil {
		delete(r.grants, key)
		return nil, err
	}
	g.held = held
	return &entry{Held: held, of: r, key: key, grant: g}, nil
}

// entry is one Lock of an owner.
type entry struct {
	lock.Held // shared by all entries of the grant
	of        *reentrant
	key       grantKey
	grant     *grant
	left      bool // guarded by of.mu
}

// Unlock ends this entry, and the grant with the last one.
func (e *entry) Unlock(ctx context.Context) error {
	e.of.mu.Lock()
	if e.left {
		e.of.mu.Unlock()
		return lock.ErrLost
	}
	e.left = true
	e.grant.entries--
	last := e.grant.entries == 0
	if last && e.of.grants[e.key] == e.grant {
		delete(e.of.grants, e.key)
	}
	lost := e.grant.lost()
	e.of.mu.Unlock()
	switch {
	case last:
		return e.Held.Unlock(ctx)
	case lost:
		return lock.ErrLost
	}
	return nil
}
