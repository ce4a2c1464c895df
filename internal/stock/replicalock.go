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

// ErrInUse means that replicas run on the database.
var ErrInUse = errors.New("a replica still runs on this database, or is stopped with its connections open: end all replicas first " +
	"(if its machine is gone, end the connection with KILL: see SHOW PROCESSLIST)")

// ReplicaLock shows that a replica may write: a user-level lock of the server, on a
// connection that stays open as long. Adopt fails while any replica holds one. A lease
// would not do: it ends while a replica is stopped, and what the replica writes when it
// resumes would pass fences that start again from zero. A transaction would not do: a
// server waits for its end before it hands over to another server.
//
// LockReplica takes its lock and then reads the binding with a shared lock; Adopt locks
// the binding's row and then looks for replica locks. So either Adopt finds the replica
// lock and fails, or LockReplica's read waits for Adopt's commit and finds the new binding.
//
// Each server has its own locks. Adopt asks every server that the DSN names. A replica
// that locks on another server meanwhile finds the new binding at its next Check.
type ReplicaLock struct {
	conn *sql.Conn
	want Binding
}

// maxReplicas is how many replicas can hold a ReplicaLock at once.
const maxReplicas = 128

// replicaLockName is the server's name of the n-th lock. These names are common to
// all databases of a server, ignore case, and have at most 64 characters.
func (db *DB) replicaLockName(n int) string {
	sum := sha256.Sum256([]byte(db.Name))
	return "flashsale.replica." + hex.EncodeToString(sum[:16]) + "." + strconv.Itoa(n)
}

// LockReplica takes a ReplicaLock on a connection of db, which it keeps. It returns a
// BindingError if the database is not bound to want.
func (db *DB) LockReplica(ctx context.Context, want Binding) (*ReplicaLock, error) {
	conn, err := db.SQL.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	l := &ReplicaLock{conn: conn, want: want}
	if err = conn.PingContext(ctx); err == nil { // fails on a server that refuses writes
		err = db.takeFree(ctx, conn)
	}
	if err == nil {
		err = l.compare(ctx, " LOCK IN SHARE MODE")
	}
	if err != nil {
		l.Release()
		return nil, fmt.Errorf("replica lock: %w", err)
	}
	return l, nil
}

// takeFree takes a free lock. It starts at random: other replicas hold the first ones.
func (db *DB) takeFree(ctx context.Context, conn *sql.Conn) error {
	first := rand.N(maxReplicas)
	for i := range maxReplicas {
		var got sql.NullInt64
		err := conn.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0)", db.replicaLockName((first+i)%maxReplicas)).Scan(&got)
		if err != nil || got.Int64 == 1 {
			return err
		}
	}
	return fmt.Errorf("%d replicas run on this database, which is the maximum", maxReplicas)
}

func (l *ReplicaLock) compare(ctx context.Context, locking string) error {
	have, err := scanBinding(l.conn.QueryRowContext(ctx, selectBinding+locking))
	if err == nil && have != l.want {
		err = &BindingError{Have: have, Want: l.want}
	}
	return err
}

// Check returns an error if the lock was lost, if the server refuses writes, or if the
// database's binding has changed. The lock must be released then.
func (l *ReplicaLock) Check(ctx context.Context) error {
	err := l.conn.PingContext(ctx) // a sql.Conn never reconnects
	if err == nil {
		err = l.compare(ctx, "")
	}
	return wrap("replica lock", err)
}

// Release closes the connection, which also frees the lock.
func (l *ReplicaLock) Release() {
	_ = l.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = l.conn.Close()
}

// ReplicaConnection is the id of a connection of the server that holds a
// ReplicaLock, or 0.
func (db *DB) ReplicaConnection(ctx context.Context, conn *sql.Conn) (id int64, err error) {
	holders := make([]string, maxReplicas)
	for n := range holders {
		holders[n] = "IS_USED_LOCK('" + db.replicaLockName(n) + "')"
	}
	err = conn.QueryRowContext(ctx, "SELECT COALESCE("+strings.Join(holders, ", ")+", 0)").Scan(&id)
	return id, wrap("look for running replicas", err)
}

// noReplicaRuns returns ErrInUse if a ReplicaLock is held on any server.
func (db *DB) noReplicaRuns(ctx context.Context, conn *sql.Conn) error {
	err := db.checkUnused(ctx, conn)
	for addr, host := range db.hosts {
		if err == nil && len(db.hosts) > 1 {
			err = wrap(addr, db.checkUnusedAt(ctx, host))
		}
	}
	return err
}

func (db *DB) checkUnusedAt(ctx context.Context, host driver.Connector) error {
	pool := sql.OpenDB(host)
	defer pool.Close()
	conn, err := pool.Conn(ctx)
	if err != nil {
		return fmt.Errorf("replicas may run on this host, which does not answer; if it is gone, remove it from --mysql-dsn: %w", err)
	}
	defer conn.Close()
	return db.checkUnused(ctx, conn)
}

func (db *DB) checkUnused(ctx context.Context, conn *sql.Conn) error {
	id, err := db.ReplicaConnection(ctx, conn)
	if err == nil && id != 0 {
		err = fmt.Errorf("%w (connection %d)", ErrInUse, id)
	}
	return err
}
