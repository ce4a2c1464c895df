package mysqllock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
)

// TableCapabilities are those of a Table.
var TableCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, Reentrant: true, Restart: true, LockTrips: 1, UnlockTrips: 1,
}

// Table is a lock.Locker on rows with a holder and a lease. See lock-table in the package
// comment.
type Table struct {
	*reentrant
	store *tableStore
}

// NewTable makes a Table. It does not connect yet.
func NewTable(cfg Config) (*Table, error) {
	if err := cfg.check(true); err != nil {
		return nil, err
	}
	db, err := cfg.open()
	if err != nil {
		return nil, err
	}
	store := &tableStore{pool: db, ttl: cfg.TTL, sql: tableSQL(cfg.Table), schema: TableSchema(cfg.Table)}
	locker, err := lease.New(lease.Config{Store: store, TTL: cfg.TTL, Owner: cfg.Owner, CloseStore: db.Close, Final: isFinal})
	if err != nil {
		return nil, err
	}
	return &Table{reentrant: newReentrant(locker), store: store}, nil
}

// TableSchema is the SQL that creates a table for NewTable.
func TableSchema(table string) string {
	return `CREATE TABLE IF NOT EXISTS ` + table + ` (
  name       VARBINARY(255)  NOT NULL,
  owner      VARBINARY(512)  NOT NULL,
  token      BIGINT UNSIGNED NOT NULL,
  expires_at DATETIME(6)     NOT NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB`
}

// tableQueries is the SQL of a Table. A free row has an empty owner.
type tableQueries struct {
	take, insert, holder, renew, release, inspect, revoke string
}

func tableSQL(table string) tableQueries {
	return tableQueries{
		// LAST_INSERT_ID(x) returns x with the answer. A second statement could read a later
		// holder's token.
		take: `UPDATE ` + table + ` SET owner = ?, token = LAST_INSERT_ID(token + 1),
 expires_at = NOW(6) + INTERVAL ? MICROSECOND WHERE name = ? AND (owner = '' OR expires_at <= NOW(6))`,
		insert: `INSERT INTO ` + table + ` (name, owner, token, expires_at) VALUES
 (?, ?, LAST_INSERT_ID(FLOOR(UNIX_TIMESTAMP(NOW(6)) * 1000000)), NOW(6) + INTERVAL ? MICROSECOND)`,
		holder:  `SELECT owner FROM ` + table + ` WHERE name = ?`,
		renew:   `UPDATE ` + table + ` SET expires_at = NOW(6) + INTERVAL ? MICROSECOND WHERE name = ? AND owner = ? AND expires_at > NOW(6)`,
		release: `UPDATE ` + table + ` SET owner = '' WHERE name = ? AND owner = ?`,
		inspect: `SELECT name, owner, token FROM ` + table + ` WHERE owner <> '' AND expires_at > NOW(6) ORDER BY name`,
		revoke:  `UPDATE ` + table + ` SET owner = '' WHERE name = ? AND owner <> '' AND expires_at > NOW(6)`,
	}
}

type tableStore struct {
	*pool
	ttl    time.Duration
	sql    tableQueries
	schema string
}

// takeRounds bounds the retries of a take whose row changes between two statements.
const takeRounds = 3

func (s *tableStore) Try(ctx context.Context, name, owner string) (lock.Token, error) {
	token, err := s.try(ctx, name, owner)
	if isError(err, noSuchTable) {
		if _, err = s.ExecContext(ctx, s.schema); err == nil {
			token, err = s.try(ctx, name, owner)
		}
	}
	if err != nil && !errors.Is(err, lock.ErrHeld) {
		err = s.errorf("take a lock's row", err)
	}
	return token, err
}

func (s *tableStore) try(ctx context.Context, name, owner string) (lock.Token, error) {
	for range takeRounds {
		taken, err := s.ExecContext(ctx, s.sql.take, owner, s.ttl.Microseconds(), name)
		if token, ok := tokenOf(taken, err); ok {
			return token, nil
		}
		if isError(err, deadlock, rolledBack) {
			continue // conflict with another node of a cluster
		}
		if err != nil {
			return 0, err
		}
		var holder string
		err = s.QueryRowContext(ctx, s.sql.holder, name).Scan(&holder)
		switch {
		case err == nil && holder == "":
			continue // released meanwhile
		case err == nil:
			return 0, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
		case !errors.Is(err, sql.ErrNoRows):
			return 0, err
		}
		inserted, err := s.ExecContext(ctx, s.sql.insert, name, owner, s.ttl.Microseconds())
		if token, ok := tokenOf(inserted, err); ok {
			return token, nil
		}
		if !isError(err, duplicateKey, lockWaitTimeout, deadlock, rolledBack) { // inserted meanwhile
			return 0, err
		}
	}
	return 0, lock.ErrHeld
}

// tokenOf returns the token of a statement that has changed a row.
func tokenOf(result sql.Result, err error) (lock.Token, bool) {
	if err != nil {
		return 0, false
	}
	rows, _ := result.RowsAffected() // the driver's results never fail
	token, _ := result.LastInsertId()
	return lock.Token(token), rows == 1
}

func (s *tableStore) Renew(ctx context.Context, name, owner string) error {
	return s.changeOwned(ctx, "renew a lock's row", s.sql.renew, s.ttl.Microseconds(), name, owner)
}

func (s *tableStore) Release(ctx context.Context, name, owner string) error {
	return s.changeOwned(ctx, "release a lock's row", s.sql.release, name, owner)
}

// changeOwned returns lock.ErrLost if the query has matched no row.
func (s *tableStore) changeOwned(ctx context.Context, what, query string, args ...any) error {
	result, err := s.ExecContext(ctx, query, args...)
	if err != nil {
		return s.errorf(what, err)
	}
	if rows, _ := result.RowsAffected(); rows == 0 {
		return lock.ErrLost
	}
	return nil
}

// Inspect lists the locks that are held. Waiters are not in the table.
func (t *Table) Inspect(ctx context.Context) ([]lock.Info, error) {
	all, err := scanInfos(t.store.QueryContext(ctx, t.store.sql.inspect))
	if err != nil {
		return nil, t.store.errorf("list locks", err)
	}
	return all, nil
}

// Revoke frees the row of name. The holder notices at its next renewal, at most a third of
// the TTL later.
func (t *Table) Revoke(ctx context.Context, name string) error {
	err := t.store.changeOwned(ctx, "revoke a lock", t.store.sql.revoke, name)
	if errors.Is(err, lock.ErrLost) || isError(err, noSuchTable) {
		return fmt.Errorf("revoke %s: %w", name, lock.ErrNotHeld)
	}
	return err
}
