package mysqllock

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// GetLockCapabilities are those of a GetLock. One waiter of each process is in the
// server's queue.
var GetLockCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Queue: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 1,
}

// GetLock is a lock.Locker that holds GET_LOCK on a connection. See get-lock in the package
// comment. It is not a lock.Inspector, because the server does not list such locks.
type GetLock struct {
	*lease.Locker
	store *pinned
}

// NewGetLock makes a GetLock. It does not connect yet.
func NewGetLock(cfg Config) (*GetLock, error) {
	if err := cfg.check(false); err != nil {
		return nil, err
	}
	cfg.Tries = 0
	l, store, err := newPinned(cfg, func(p *pool) sessionLock { return getLock{p.database} })
	if err != nil {
		return nil, err
	}
	return &GetLock{l, store}, nil
}

// awaitSeconds bounds one wait on the server. MySQL and MariaDB differ in how they express
// an unlimited wait. During a wait, the server checks once a second that its client lives.
const awaitSeconds = 60

// getLock is the sessionLock of a GetLock in one database.
type getLock struct{ database string }

// serverName returns the name of the lock on the server. All databases share these names,
// which ignore case and have at most 64 characters.
func (g getLock) serverName(name string) string {
	sum := sha256.Sum256([]byte(g.database + "\x00" + name))
	return "flashsale." + hex.EncodeToString(sum[:24])
}

func (g getLock) take(ctx context.Context, conn *sql.Conn, name, _ string) error {
	var got, holder sql.NullInt64
	server := g.serverName(name)
	err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0), IS_USED_LOCK(?)", server, server).Scan(&got, &holder)
	switch {
	case err != nil:
		return err
	case got.Int64 == 1:
		return nil
	case holder.Valid:
		return &lock.HeldError{Holder: fmt.Sprintf("connection %d", holder.Int64)}
	}
	return lock.ErrHeld
}

func (g getLock) await(ctx context.Context, conn *sql.Conn, name string) error {
	return isOne(conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", g.serverName(name), awaitSeconds), lock.ErrHeld)
}

// setOwner restarts the session's wait_timeout. It is unknown when the wait succeeded.
func (g getLock) setOwner(ctx context.Context, conn *sql.Conn, _, _ string) error {
	return conn.PingContext(ctx)
}

func (g getLock) release(ctx context.Context, conn *sql.Conn, name string) error {
	return isOne(conn.QueryRowContext(ctx, "SELECT RELEASE_LOCK(?)", g.serverName(name)), lock.ErrLost)
}

// isOne returns otherwise unless row is the number 1.
func isOne(row *sql.Row, otherwise error) error {
	var n sql.NullInt64
	if err := row.Scan(&n); err != nil {
		return err
	}
	if n.Int64 != 1 {
		return otherwise
	}
	return nil
}
