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

// pingGrace is what a ping has to end when its lock is given back meanwhile. One
// that was cut off would take the connection with it.
const pingGrace = 100 * time.Millisecond

// sessionLock is a lock that belongs to a connection. Its methods are called for
// one connection after the other.
type sessionLock interface {
	// take takes name at once, or returns lock.ErrHeld.
	take(ctx context.Context, conn *sql.Conn, name, owner string) error
	// await takes name when its turn comes in the server's queue, within a time
	// of its own. lock.ErrHeld says that it has not come yet.
	await(ctx context.Context, conn *sql.Conn, name string) error
	// begin is called after await: from now on it is owner who holds name.
	begin(ctx context.Context, conn *sql.Conn, name, owner string) error
	// give gives name back. lock.ErrLost says that conn did not have it.
	give(ctx context.Context, conn *sql.Conn, name string) error
}

// pinned is the lease.Store of locks that belong to a connection. The lease is
// the session's wait_timeout, and a ping renews it.
type pinned struct {
	*pool
	lock  sessionLock
	tries int // see Config

	mu   sync.Mutex
	held map[string]*sql.Conn // by owner
	// turn has the connections whose turn has come in wait, by name, until the
	// try that follows, or the end of the Lock that waits. The lease.Locker waits
	// for a name once at a time.
	turn map[string]*sql.Conn
}

// idleSetting makes the server end a session that is silent for a TTL.
func idleSetting(ttl time.Duration) string {
	return fmt.Sprintf("SET SESSION wait_timeout = %d", ttl/time.Second)
}

// newPinned makes the lease.Locker of a sessionLock.
func newPinned(cfg Config, store *pinned) (*lease.Locker, error) {
	store.tries = cfg.Tries
	store.held, store.turn = map[string]*sql.Conn{}, map[string]*sql.Conn{}
	return lease.New(lease.Config{Store: store, TTL: cfg.TTL, Owner: cfg.Owner.String(), Changed: store.wait, Final: isFinal})
}

// wholeSeconds is what wait_timeout can say, at least d.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// Try has no token to give: see the package's comment.
func (p *pinned) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	p.mu.Lock()
	waited := p.turn[name]
	delete(p.turn, name)
	p.mu.Unlock()
	if waited != nil {
		err := p.lock.begin(ctx, waited, name, owner)
		if err == nil {
			p.pin(owner, waited)
			return 0, nil
		}
		discard(waited) // the turn came, and went with the connection
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	conn, err := p.onConn(ctx, func(conn *sql.Conn) error { return p.lock.take(ctx, conn, name, owner) })
	if err != nil {
		return 0, err
	}
	p.pin(owner, conn)
	return 0, nil
}

func (p *pinned) pin(owner string, conn *sql.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[owner] = conn
}

// unpin takes the connection from its owner: nil where it has none.
func (p *pinned) unpin(owner string) *sql.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn := p.held[owner]
	delete(p.held, owner)
	return conn
}

// Renew pings. A connection that does not answer in time is given up: the server
// frees what it held when it sees that.
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
		if !errors.Is(ctx.Err(), context.Canceled) {
			cancel()
			return
		}
		select {
		case <-pinging.Done():
		case <-time.After(pingGrace):
			cancel()
		}
	})()
	if err := conn.PingContext(pinging); err != nil {
		if conn := p.unpin(owner); conn != nil {
			discard(conn)
		}
		return fmt.Errorf("%w: %w", lock.ErrLost, p.errorf("ping", err))
	}
	return nil
}

// Release gives the lock back and the connection to the pool. A connection that
// fails at that is closed, which frees the lock as well, if later.
func (p *pinned) Release(ctx context.Context, name, owner string) error {
	conn := p.unpin(owner)
	if conn == nil {
		return lock.ErrLost
	}
	err := p.lock.give(ctx, conn, name)
	if err != nil {
		discard(conn)
		if !errors.Is(err, lock.ErrLost) {
			err = p.errorf("give a lock back", err)
		}
		return err
	}
	return conn.Close()
}

// wait is the lease.Config's Changed: it waits in the server's queue, and takes
// the lock for the Try that follows.
func (p *pinned) wait(ctx context.Context, name string) error {
	for n := 1; p.tries == 0 || n < p.tries; n++ {
		conn, err := p.onConn(ctx, func(conn *sql.Conn) error { return p.lock.await(ctx, conn, name) })
		switch {
		case err == nil:
			p.mu.Lock()
			p.turn[name] = conn
			p.mu.Unlock()
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

// onConn calls f with a connection, and returns that when f succeeded. The driver
// looks whether a connection is alive before the pool hands it out.
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
		_ = conn.Close() // gives it back: nothing was taken with it
		return nil, err
	}
	discard(conn)
	return nil, p.errorf("take a lock", err)
}

// forget gives up a turn that no try has followed.
func (p *pinned) forget(name string, conn *sql.Conn) {
	p.mu.Lock()
	left := p.turn[name] == conn
	if left {
		delete(p.turn, name)
	}
	p.mu.Unlock()
	if left {
		discard(conn)
	}
}

// discard closes a connection that must not go back to the pool: it may hold a
// lock, or is dead.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = conn.Close()
}
