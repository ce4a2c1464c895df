package mysqllock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// RowCapabilities are those of a Row. One waiter of each process is in the row's queue on
// the server. It leaves and enters the queue once a second.
var RowCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, LossNotice: true, Queue: true, Removal: true,
	Renewed: true, LockTrips: 2, UnlockTrips: 1,
}

// Row is a lock.Locker that holds SELECT ... FOR UPDATE on a row, and with it a
// transaction and a connection. See lock-row in the package comment.
type Row struct {
	*lease.Locker
	store *pinned
	sql   rowQueries
}

// NewRow makes a Row. It does not connect yet.
func NewRow(cfg Config) (*Row, error) {
	if err := cfg.check(true); err != nil {
		return nil, err
	}
	r := &Row{sql: rowSQL(cfg.Table)}
	var err error
	r.Locker, r.store, err = newPinned(cfg, func(*pool) sessionLock { return &rowLock{sql: r.sql, schema: RowSchema(cfg.Table)} },
		// Reads without a lock then show the holder, which is not committed. Locking reads
		// see committed rows at any level.
		"SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
		// A statement then begins a transaction itself, so a lock needs no BEGIN.
		"SET SESSION autocommit = 0")
	if err != nil {
		return nil, err
	}
	return r, nil
}

// RowSchema is the SQL that creates a table for NewRow. Only names are ever committed. The
// other columns are readable while a holder's transaction is open.
func RowSchema(table string) string {
	return `CREATE TABLE IF NOT EXISTS ` + table + ` (
  name    VARBINARY(255)  NOT NULL,
  owner   VARBINARY(512)  NULL,
  session BIGINT UNSIGNED NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB`
}

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
		inspect: `SELECT name, owner, 0 FROM ` + table + ` WHERE owner IS NOT NULL ORDER BY name`,
		session: `SELECT session FROM ` + table + ` WHERE name = ? AND session IS NOT NULL`,
	}
}

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
		return r.setOwner(ctx, conn, name, owner)
	}
	if err = rollback(ctx, conn, err); !errors.Is(err, lock.ErrHeld) {
		return err
	}
	var holder sql.NullString // NULL if it is being taken, or was released meanwhile
	err = conn.QueryRowContext(ctx, r.sql.holder, name).Scan(&holder)
	if err = rollback(ctx, conn, err); err != nil {
		return err
	}
	if !holder.Valid {
		return lock.ErrHeld
	}
	return &lock.HeldError{Holder: lease.ParseOwner(holder.String).Holder}
}

func (r *rowLock) await(ctx context.Context, conn *sql.Conn, name string) error {
	err := r.read(ctx, conn, r.sql.await, name)
	if err == nil {
		return nil
	}
	return rollback(ctx, conn, err)
}

func (r *rowLock) setOwner(ctx context.Context, conn *sql.Conn, name, owner string) error {
	_, err := conn.ExecContext(ctx, r.sql.begin, owner, name)
	return err
}

func (r *rowLock) release(ctx context.Context, conn *sql.Conn, _ string) error {
	_, err := conn.ExecContext(ctx, "ROLLBACK")
	return err
}

// read is a locking read. It returns sql.ErrNoRows if the row is missing.
func (r *rowLock) read(ctx context.Context, conn *sql.Conn, query, name string) error {
	var row []byte
	return conn.QueryRowContext(ctx, query, name).Scan(&row)
}

// insert creates the row, and the table if that is missing, and commits. Another process
// may do the same at the same time.
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

// rollback ends the transaction of a failed statement, which would keep its locks in the
// pool. It returns lock.ErrHeld if err says that the row is locked.
func rollback(ctx context.Context, conn *sql.Conn, err error) error {
	switch {
	case isError(err, lockNoWait, lockWaitTimeout, deadlock, rolledBack):
		err = lock.ErrHeld
	case !answered(err):
		return err // the connection is closed
	}
	if _, rollbackErr := conn.ExecContext(ctx, "ROLLBACK"); rollbackErr != nil {
		return rollbackErr
	}
	return err
}

// Inspect lists the locks that are held, from the uncommitted rows of their holders.
func (r *Row) Inspect(ctx context.Context) (all []lock.Info, err error) {
	err = r.inTransaction(ctx, func(conn *sql.Conn) (err error) {
		all, err = scanInfos(conn.QueryContext(ctx, r.sql.inspect))
		return err
	})
	return all, err
}

// Revoke ends the holder's session. A MySQL user may do that to its own sessions; others
// need a right.
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

// inTransaction calls f, which only reads, and rolls back.
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
