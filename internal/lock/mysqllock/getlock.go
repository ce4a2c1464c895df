package mysqllock

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// GetLockCapabilities are what a GetLock promises. In a process only one of those
// who wait stands in the server's queue.
var GetLockCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Queue: true, Removal: true,
	Renewed: true, LockTrips: 1, UnlockTrips: 1,
}

// GetLock is a lock.Locker that holds GET_LOCK on a connection. See the package's
// comment, get-lock. The server does not list such locks, so that it is no
// lock.Inspector.
type GetLock struct {
	*lease.Locker
	store *pinned
}

// NewGetLock makes a GetLock. It does not talk to the server yet.
func NewGetLock(cfg Config) (*GetLock, error) {
	if err := cfg.check(false); err != nil {
		return nil, err
	}
	cfg.TTL, cfg.Tries = wholeSeconds(cfg.TTL), 0
	db, err := cfg.open(idleSetting(cfg.TTL))
	if err != nil {
		return nil, err
	}
	store := &pinned{pool: db, lock: getLock{db.database}}
	locker, err := newPinned(cfg, store)
	if err != nil {
		return nil, err
	}
	return &GetLock{Locker: locker, store: store}, nil
}

// Close gives every grant back, within ctx, and closes the pool.
func (g *GetLock) Close(ctx context.Context) error {
	return errors.Join(g.Locker.Close(ctx), g.store.Close())
}

// awaitSeconds bounds one wait on the server, which looks once a second whether
// its client is still there. Servers differ in what a wait without an end is.
const awaitSeconds = 60

// getLock is the sessionLock of a GetLock, for one database.
type getLock struct{ database string }

// serverName is what the server knows the lock by. Its names are common to all
// its databases, have no case, and at most 64 characters.
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
	var got sql.NullInt64
	err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, ?)", g.serverName(name), awaitSeconds).Scan(&got)
	if err == nil && got.Int64 != 1 {
		return lock.ErrHeld
	}
	return err
}

// begin counts the session's silence from now: until the turn came, its wait was
// none, and when it came is not known.
func (g getLock) begin(ctx context.Context, conn *sql.Conn, _, _ string) error {
	return conn.PingContext(ctx)
}

func (g getLock) give(ctx context.Context, conn *sql.Conn, name string) error {
	var freed sql.NullInt64
	err := conn.QueryRowContext(ctx, "SELECT RELEASE_LOCK(?)", g.serverName(name)).Scan(&freed)
	if err == nil && freed.Int64 != 1 {
		return lock.ErrLost
	}
	return err
}
