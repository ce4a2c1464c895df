package mysqllock

import (
	"context"
	"fmt"
	"sync"

	"flashsale/internal/lock"
)

// reentrant lets an owner that lock.WithOwner names take again what it has. A
// grant is given back when each of its entries is.
type reentrant struct {
	lock.Locker

	mu     sync.Mutex
	grants map[grantKey]*grant
}

type grantKey struct{ name, owner string }

// grant is what an owner has, or is about to have.
type grant struct {
	settled chan struct{} // closed when the server has granted or refused it

	// These are guarded by reentrant.
	held    lock.Held // nil until it is granted
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

// Lock waits for its turn, unless the context's owner has name already.
func (r *reentrant) Lock(ctx context.Context, name string) (lock.Held, error) {
	return r.enter(ctx, name, true)
}

// TryLock is Lock without the wait.
func (r *reentrant) TryLock(ctx context.Context, name string) (lock.Held, error) {
	return r.enter(ctx, name, false)
}

func (r *reentrant) enter(ctx context.Context, name string, wait bool) (lock.Held, error) {
	take := r.Locker.TryLock
	if wait {
		take = r.Locker.Lock
	}
	key := grantKey{name, lock.OwnerOf(ctx)}
	if key.owner == "" {
		return take(ctx, name)
	}
	for {
		g, held, begun, err := r.join(ctx, key)
		switch {
		case err != nil:
			return nil, fmt.Errorf("lock %s: %w", name, err)
		case begun:
			held, err := take(ctx, name)
			r.settle(key, g, held)
			if err != nil {
				return nil, err
			}
			return &entry{Held: held, of: r, key: key, grant: g}, nil
		case held != nil:
			return &entry{Held: held, of: r, key: key, grant: g}, nil
		case !wait: // another of this owner waits: somebody else has it
			return nil, fmt.Errorf("lock %s: %w", name, lock.ErrHeld)
		}
		select {
		case <-g.settled:
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", name, ctx.Err())
		}
	}
}

// join enters the grant that the owner has, or begins one. It returns neither
// where another has begun one that is not settled yet.
func (r *reentrant) join(ctx context.Context, key grantKey) (g *grant, held lock.Held, begun bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g = r.grants[key]
	if g == nil || g.lost() { // a lost one is left to those who entered it
		g = &grant{settled: make(chan struct{}), entries: 1}
		r.grants[key] = g
		return g, nil, true, nil
	}
	if g.held == nil {
		return g, nil, false, nil
	}
	g.entries++
	return g, g.held, false, nil
}

// settle takes in what became of the first entry.
func (r *reentrant) settle(key grantKey, g *grant, held lock.Held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if held == nil {
		delete(r.grants, key)
	}
	g.held = held
	close(g.settled)
}

// entry is one of the times that an owner took a lock.
type entry struct {
	lock.Held // the grant that all entries share
	of        *reentrant
	key       grantKey
	grant     *grant
	left      bool // guarded by of
}

// Unlock leaves the lock, and with the last entry gives it back.
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
