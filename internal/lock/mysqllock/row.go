package mysqllock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// RowCapabilities are what a Row promises. Whoever waits in another process
// stands in the row's queue on the server; it is left once a second and entered
// again, and in a process only one stands there.
var RowCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Queue: true, Removal: true,
	Renewed: true, LockTrips: 2, UnlockTrips: 1,
}

// Row is a lock.Locker that holds SELECT ... FOR UPDATE of a row, and thus a
// transaction and a connection. See the package's comment, lock-row.
type Row struct {
	*lease.Locker
	store *pinned
	sql   rowQueries
}

// NewRow makes a Row. It does not talk to the server yet.
func NewRow(cfg Config) (*Row, error) {
	if err := cfg.check(true); err != nil {
		return nil, err
	}
	cfg.TTL = wholeSeconds(cfg.TTL)
	db, err := cfg.open(
		// What is read without a lock shows who holds, although that is not
		// committed. Locking reads see what is committed, at any level.
		"SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
		// Without autocommit a statement begins a transaction by itself: a lock
		// costs no BEGIN.
		"SET SESSION autocommit = 0",
		idleSetting(cfg.TTL))
	if err != nil {
		return nil, err
	}
	queries := rowSQL(cfg.Table)
	store := &pinned{pool: db, lock: &rowLock{sql: queries, schema: RowSchema(cfg.Table)}}
	locker, err := newPinned(cfg, store)
	if err != nil {
		return nil, err
	}
	return &Row{Locker: locker, store: store, sql: queries}, nil
}

// Close gives every grant back, within ctx, and closes the pool.
func (r *Row) Close(ctx context.Context) error {
	return errors.Join(r.Locker.Close(ctx), r.store.Close())
}

// RowSchema is the SQL that makes a Row's table of that name. All but the names
// is never committed: it can be read while a holder's transaction is open.
func RowSchema(table string) string {
	return `CREATE TABLE IF NOT EXISTS ` + table + ` (
  name    VARBINARY(255)  NOT NULL,
  owner   VARBINARY(512)  NULL,
  session BIGINT UNSIGNED NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB`
}

// rowQueries are a Row's SQL, all of it.
type rowQueries struct {
	take, await, begin, insert, holder, inspect, session string
}

func rowSQL(table string) rowQueries {
	lockingRead := `SELECT name FROM ` + table + ` WHERE name = ? FOR UPDATE`
	return rowQueries{
		take:    lockingRead + ` NOWAIT`,
		await:   lockingRead,
		begin:   `UPDATE ` + table + ` SET owner = ?, session = CONNECTION_ID() WHERE name = ?`,
		insert:  `INSERT INTO ` + table + ` (name) VALUES (?)`,
		holder:  `SELECT owner FROM ` + table + ` WHERE name = ?`,
		inspect: `SELECT name, owner FROM ` + table + ` WHERE owner IS NOT NULL ORDER BY name`,
		session: `SELECT session FROM ` + table + ` WHERE name = ? AND session IS NOT NULL`,
	}
}

// rowLock is the sessionLock of a Row.
type rowLock struct {
	sql    rowQueries
	schema string
}

func (r *rowLock) take(ctx context.Context, conn *sql.Conn, name, owner string) error {
	err := r.read(ctx, conn, r.sql.take, name)
	if errors.Is(err, sql.ErrNoRows) || isError(err, noSuchTable) {
		if err = r.insert(ctx, conn, name, isError(err, noSuchTable)); err == nil {
			err = r.read(ctx, conn, r.sql.take, name)
		}
	}
	if err == nil {
		return r.begin(ctx, conn, name, owner)
	}
	if err = r.rollback(ctx, conn, err); !errors.Is(err, lock.ErrHeld) {
		return err
	}
	var holder sql.NullString
	err = conn.QueryRowContext(ctx, r.sql.holder, name).Scan(&holder)
	err = r.rollback(ctx, conn, err)
	if err == nil && holder.Valid {
		return &lock.HeldError{Holder: lease.ParseOwner(holder.String).Holder}
	}
	if err == nil { // it is being taken, or was given back in between
		return lock.ErrHeld
	}
	return err
}

func (r *rowLock) await(ctx context.Context, conn *sql.Conn, name string) error {
	err := r.read(ctx, conn, r.sql.await, name)
	if err == nil {
		return nil
	}
	return r.rollback(ctx, conn, err)
}

func (r *rowLock) begin(ctx context.Context, conn *sql.Conn, name, owner string) error {
	_, err := conn.ExecContext(ctx, r.sql.begin, owner, name)
	return err
}

// give ends the transaction. Nothing in it was to last.
func (r *rowLock) give(ctx context.Context, conn *sql.Conn, _ string) error {
	_, err := conn.ExecContext(ctx, "ROLLBACK")
	return err
}

// read is the locking read. Its row is there, or it is sql.ErrNoRows.
func (r *rowLock) read(ctx context.Context, conn *sql.Conn, query, name string) error {
	var row []byte
	return conn.QueryRowContext(ctx, query, name).Scan(&row)
}

// insert makes the row, for good. Another may make it at the same time.
func (r *rowLock) insert(ctx context.Context, conn *sql.Conn, name string, table bool) error {
	if table {
		if _, err := conn.ExecContext(ctx, r.schema); err != nil {
			return err
		}
	}
	_, err := conn.ExecContext(ctx, r.sql.insert, name)
	if err != nil && !isError(err, duplicateKey) {
		return err
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

// rollback ends the transaction of what failed, and says what that means. A
// transaction left open would go back to the pool with its locks.
func (r *rowLock) rollback(ctx context.Context, conn *sql.Conn, err error) error {
	if isError(err, lockNoWait, lockWaitTimeout, deadlock, rolledBack) {
		err = lock.ErrHeld
	}
	if err != nil && !answered(err) && !errors.Is(err, lock.ErrHeld) {
		return err // the connection is closed
	}
	if _, rollbackErr := conn.ExecContext(ctx, "ROLLBACK"); rollbackErr != nil {
		return rollbackErr
	}
	return err
}

// Inspect lists who holds what, as their open transactions say.
func (r *Row) Inspect(ctx context.Context) ([]lock.Info, error) {
	var all []lock.Info
	err := r.inTransaction(ctx, func(conn *sql.Conn) error {
		rows, err := conn.QueryContext(ctx, r.sql.inspect)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name, owner string
			if err := rows.Scan(&name, &owner); err != nil {
				return err
			}
			info := lease.ParseOwner(owner)
			info.Name = name
			all = append(all, info)
		}
		return rows.Err()
	})
	if isError(err, noSuchTable) {
		return nil, nil
	}
	return all, err
}

// Revoke ends the holder's session. It needs the right to do that, which a user
// has for its own sessions.
func (r *Row) Revoke(ctx context.Context, name string) error {
	err := r.inTransaction(ctx, func(conn *sql.Conn) error {
		var session int64
		if err := conn.QueryRowContext(ctx, r.sql.session, name).Scan(&session); err != nil {
			return err
		}
		_, err := conn.ExecContext(ctx, fmt.Sprint("KILL ", session))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) || isError(err, noSuchTable, noSuchThread) {
		return fmt.Errorf("revoke %s: %w", name, lock.ErrNotHeld)
	}
	return err
}

// inTransaction runs what only reads, and leaves no transaction open.
func (r *Row) inTransaction(ctx context.Context, f func(*sql.Conn) error) error {
	conn, err := r.store.onConn(ctx, func(conn *sql.Conn) error {
		if err := f(conn); err != nil {
			return err
		}
		_, err := conn.ExecContext(ctx, "ROLLBACK")
		return err
	})
	if err != nil {
		return err
	}
	return conn.Close()
}
