package mysqllock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// pingGrace is how long a ping may still take when its lock is released meanwhile.
// Cancelling it would close the connection.
const pingGrace = 100 * time.Millisecond

// sessionLock is a lock that belongs to a connection.
type sessionLock interface {
	// take takes name at once, or returns lock.ErrHeld.
	take(ctx context.Context, conn *sql.Conn, name, owner string) error
	// await waits in the server's queue and takes name. It returns lock.ErrHeld after a
	// time of its own.
	await(ctx context.Context, conn *sql.Conn, name string) error
	// setOwner records owner as the holder after await.
	setOwner(ctx context.Context, conn *sql.Conn, name, owner string) error
	// release frees name, or returns lock.ErrLost if conn does not hold it.
	release(ctx context.Context, conn *sql.Conn, name string) error
}

// newPinned makes a Locker whose lease is the session's wait_timeout, in whole seconds.
func newPinned(cfg Config, newLock func(*pool) sessionLock, settings ...string) (*lease.Locker, *pinned, error) {
	cfg.TTL = (cfg.TTL + time.Second - 1).Truncate(time.Second)
	db, err := cfg.open(append(settings, fmt.Sprintf("SET SESSION wait_timeout = %d", cfg.TTL/time.Second))...)
	if err != nil {
		return nil, nil, err
	}
	store := &pinned{pool: db, lock: newLock(db), tries: cfg.Tries, held: map[string]*sql.Conn{}, waited: map[string]*sql.Conn{}}
	locker, err := lease.New(lease.Config{
		Store: store, TTL: cfg.TTL, Owner: cfg.Owner, AwaitChange: store.wait, CloseStore: store.Close, Final: isFinal,
	})
	return locker, store, err
}

// pinned is the lease.Store of locks that belong to a connection. A ping renews the lease.
type pinned struct {
	*pool
	lock  sessionLock
	tries int // see Config

	mu   sync.Mutex
	held map[string]*sql.Conn // by owner
	// waited has the connections whose wait has succeeded, by name, until the next Try or
	// until the Lock that waits has ended. The lease.Locker has at most one waiter for
	// each name.
	waited map[string]*sql.Conn
}

// Try returns no token: see the package comment.
func (p *pinned) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	if conn := p.remove(p.waited, name); conn != nil {
		err := p.lock.setOwner(ctx, conn, name, owner)
		if err == nil {
			p.put(p.held, owner, conn)
			return 0, nil
		}
		discard(conn)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	conn, err := p.onConn(ctx, func(conn *sql.Conn) error { return p.lock.take(ctx, conn, name, owner) })
	if err != nil {
		return 0, err
	}
	p.put(p.held, owner, conn)
	return 0, nil
}

// put adds a connection to held or waited.
func (p *pinned) put(to map[string]*sql.Conn, key string, conn *sql.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	to[key] = conn
}

// remove takes a connection out of held or waited. It returns nil if there is none.
func (p *pinned) remove(from map[string]*sql.Conn, key string) *sql.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn := from[key]
	delete(from, key)
	return conn
}

// Renew pings. It closes a connection that does not answer in time, and the server then
// frees its locks.
func (p *pinned) Renew(ctx context.Context, _, owner string) error {
	p.mu.Lock()
	conn := p.held[owner]
	p.mu.Unlock()
	if conn == nil {
		return lock.ErrLost
	}
	pinging, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			select {
			case <-pinging.Done():
			case <-time.After(pingGrace):
			}
		}
		cancel()
	})()
	if err := conn.PingContext(pinging); err != nil {
		if conn := p.remove(p.held, owner); conn != nil {
			discard(conn)
		}
		return fmt.Errorf("%w: %w", lock.ErrLost, p.errorf("ping", err))
	}
	return nil
}

// Release releases the lock and returns the connection to the pool. If that fails, it
// closes the connection, which also frees the lock, but later.
func (p *pinned) Release(ctx context.Context, name, owner string) error {
	conn := p.remove(p.held, owner)
	if conn == nil {
		return lock.ErrLost
	}
	err := p.lock.release(ctx, conn, name)
	if err == nil {
		return conn.Close()
	}
	discard(conn)
	if errors.Is(err, lock.ErrLost) {
		return err
	}
	return p.errorf("release a lock", err)
}

// wait is AwaitChange of lease.Config. It takes the lock for the next Try.
func (p *pinned) wait(ctx context.Context, name string) error {
	for n := 1; p.tries == 0 || n < p.tries; n++ {
		conn, err := p.onConn(ctx, func(conn *sql.Conn) error { return p.lock.await(ctx, conn, name) })
		switch {
		case err == nil:
			p.put(p.waited, name, conn)
			context.AfterFunc(ctx, func() { p.forget(name, conn) })
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, lock.ErrHeld):
			return err
		}
	}
	return lock.ErrHeld
}

// forget closes the connection of a wait that no Try has used.
func (p *pinned) forget(name string, conn *sql.Conn) {
	p.mu.Lock()
	unused := p.waited[name] == conn
	if unused {
		delete(p.waited, name)
	}
	p.mu.Unlock()
	if unused {
		discard(conn)
	}
}

// onConn calls f with a connection, and returns that connection if f succeeds.
func (p *pinned) onConn(ctx context.Context, f func(*sql.Conn) error) (*sql.Conn, error) {
	conn, err := p.Conn(ctx)
	if err != nil {
		return nil, p.errorf("connect", err)
	}
	err = f(conn)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, lock.ErrHeld):
		_ = conn.Close() // returns it to the pool
		return nil, err
	}
	discard(conn)
	return nil, p.errorf("take a lock", err)
}

// discard closes a connection that may hold a lock or be dead, and so must not return to
// the pool.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}
