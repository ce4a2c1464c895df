package stock

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// ErrInUse says that replicas run on the database.
var ErrInUse = errors.New("replicas still run on this database, or one is stopped with its connections open: end them all first " +
	"(a connection of a machine that is gone can be ended by KILL, see SHOW PROCESSLIST)")

// ReplicaLock is a replica's place among those that may write: a user-level lock of
// the server, on a connection that is open as long as the replica may write. Adopt
// is refused while any is taken. Nothing that counts time would do: a replica that
// is stopped keeps its connection, and what it writes when it wakes up would pass
// fences that start again from zero. It is not a transaction: a server that is to
// hand over to another waits until all of those have ended.
//
// Adopt and LockReplica cannot miss each other. LockReplica takes its place first and then
// reads the guard with a shared lock; Adopt locks the guard's row first and then
// looks at the places. If the place was taken before Adopt looks, Adopt is refused.
// If after it, then the read comes while Adopt has the row or later, waits for its
// commit, and finds the new guard.
//
// A place is known to one server alone. Where the database is on several, Adopt
// asks all that the DSN names; a replica that takes its place on another one while
// Adopt is at work there finds the new guard at its next Check.
type ReplicaLock struct {
	conn *sql.Conn
	want Binding
}

// places is how many replicas can attend at once.
const places = 128

// place is the server's name of one place. These names are common to all databases
// of a server, have no case, and at most 64 characters.
func (db *DB) place(n int) string {
	sum := sha256.Sum256([]byte(db.Name))
	return "flashsale.replica." + hex.EncodeToString(sum[:16]) + "." + strconv.Itoa(n)
}

// LockReplica begins a ReplicaLock on a connection of db, which it keeps. It returns a
// BindingError when the database is not guarded as want says.
func (db *DB) LockReplica(ctx context.Context, want Binding) (*ReplicaLock, error) {
	conn, err := db.SQL.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	p := &ReplicaLock{conn: conn, want: want}
	if err = conn.PingContext(ctx); err == nil { // not on a server that takes no writes
		err = db.takePlace(ctx, conn)
	}
	if err == nil {
		err = p.compare(ctx, " LOCK IN SHARE MODE")
	}
	if err != nil {
		p.Release()
		return nil, fmt.Errorf("replica lock: %w", err)
	}
	return p, nil
}

// takePlace takes a place that is free. It begins anywhere: the first ones are taken.
func (db *DB) takePlace(ctx context.Context, conn *sql.Conn) error {
	first := rand.N(places)
	for i := range places {
		var got sql.NullInt64
		err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0)", db.place((first+i)%places)).Scan(&got)
		if err != nil || got.Int64 == 1 {
			return err
		}
	}
	return fmt.Errorf("%d replicas run on this database, more cannot", places)
}

func (p *ReplicaLock) compare(ctx context.Context, locking string) error {
	var have Binding
	err := p.conn.QueryRowContext(ctx, "SELECT strategy, fence, token_source FROM guard WHERE id = 1"+locking).
		Scan(&have.Strategy, &have.Fence, &have.TokenSource)
	if err == nil && have != p.want {
		err = &BindingError{Have: have, Want: p.want}
	}
	return err
}

// Check asks whether the place still stands, on a server that takes writes, and
// whether the database is still guarded as it was. After an error the place has to
// be left.
func (p *ReplicaLock) Check(ctx context.Context) error {
	err := p.conn.PingContext(ctx) // a sql.Conn is never made anew
	if err == nil {
		err = p.compare(ctx, "")
	}
	if err != nil {
		return fmt.Errorf("replica lock: %w", err)
	}
	return nil
}

// Release ends it. The connection is closed: that gives the place back, too.
func (p *ReplicaLock) Release() {
	_ = p.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = p.conn.Close()
}

// ReplicaConnection is a connection of the server that holds a place, or 0.
func (db *DB) ReplicaConnection(ctx context.Context, conn *sql.Conn) (id int64, err error) {
	holders := make([]string, places)
	for n := range holders {
		holders[n] = "IS_USED_LOCK('" + db.place(n) + "')"
	}
	err = conn.QueryRowContext(ctx, "SELECT COALESCE("+strings.Join(holders, ", ")+", 0)").Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("look for replicas: %w", err)
	}
	return id, nil
}

// noReplicaRuns returns ErrInUse unless all places are free, on every server.
func (db *DB) noReplicaRuns(ctx context.Context, conn *sql.Conn) error {
	if id, err := db.ReplicaConnection(ctx, conn); err != nil || id != 0 {
		return inUse("", id, err)
	}
	if len(db.hosts) == 1 {
		return nil
	}
	for addr, host := range db.hosts {
		if id, err := db.replicaConnectionAt(ctx, host); err != nil || id != 0 {
			return inUse(addr+": ", id, err)
		}
	}
	return nil
}

func (db *DB) replicaConnectionAt(ctx context.Context, host driver.Connector) (id int64, err error) {
	pool := sql.OpenDB(host)
	defer pool.Close()
	conn, err := pool.Conn(ctx)
	if err != nil {
		return 0, fmt.Errorf("replicas may run on a host that does not answer; take one that is gone out of --mysql-dsn: %w", err)
	}
	defer conn.Close()
	return db.ReplicaConnection(ctx, conn)
}

func inUse(where string, id int64, err error) error {
	if err == nil {
		err = fmt.Errorf("%w (connection %d)", ErrInUse, id)
	}
	return fmt.Errorf("%s%w", where, err)
}
