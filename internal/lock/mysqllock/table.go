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

// TableCapabilities are what a Table promises.
var TableCapabilities = lock.Capabilities{
	Processes: true, Deadline: true, Token: true, LossNotice: true, Removal: true,
	Renewed: true, Reentrant: true, Restart: true, LockTrips: 1, UnlockTrips: 1,
}

// Table is a lock.Locker on rows that say who has a name, and until when. See
// the package's comment, lock-table.
type Table struct {
	*reentrant
	store *tableStore
}

// NewTable makes a Table. It does not talk to the server yet.
func NewTable(cfg Config) (*Table, error) {
	if err := cfg.check(true); err != nil {
		return nil, err
	}
	db, err := cfg.open()
	if err != nil {
		return nil, err
	}
	store := &tableStore{pool: db, ttl: cfg.TTL, sql: tableSQL(cfg.Table), schema: TableSchema(cfg.Table)}
	locker, err := lease.New(lease.Config{Store: store, TTL: cfg.TTL, Owner: cfg.Owner.String(), Final: isFinal})
	if err != nil {
		return nil, err
	}
	return &Table{reentrant: newReentrant(locker), store: store}, nil
}

// Close gives every grant back, within ctx, and closes the pool.
func (t *Table) Close(ctx context.Context) error {
	return errors.Join(t.reentrant.Close(ctx), t.store.Close())
}

// TableSchema is the SQL that makes a Table's table of that name.
func TableSchema(table string) string {
	return `CREATE TABLE IF NOT EXISTS ` + table + ` (
  name       VARBINARY(255)  NOT NULL,
  owner      VARBINARY(512)  NOT NULL,
  token      BIGINT UNSIGNED NOT NULL,
  expires_at DATETIME(6)     NOT NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB`
}

// tableQueries are a Table's SQL, all of it. An empty owner is nobody.
type tableQueries struct {
	take, insert, holder, renew, release, inspect, revoke string
}

func tableSQL(table string) tableQueries {
	return tableQueries{
		// LAST_INSERT_ID(x) hands x back with the answer: no second round trip,
		// in which the row might have changed hands.
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

// tableStore is the lease.Store of a Table.
type tableStore struct {
	*pool
	ttl    time.Duration
	sql    tableQueries
	schema string
}

// takeRounds bounds a take that finds its row gone, and then there again.
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
			continue // on another node of a cluster, somebody was first
		}
		if err != nil {
			return 0, err
		}
		var holder string
		err = s.QueryRowContext(ctx, s.sql.holder, name).Scan(&holder)
		switch {
		case err == nil && holder == "":
			continue // it was given back in between
		case err == nil:
			return 0, &lock.HeldError{Holder: lease.ParseOwner(holder).Holder}
		case !errors.Is(err, sql.ErrNoRows):
			return 0, err
		}
		inserted, err := s.ExecContext(ctx, s.sql.insert, name, owner, s.ttl.Microseconds())
		if token, ok := tokenOf(inserted, err); ok {
			return token, nil
		}
		if !isError(err, duplicateKey, lockWaitTimeout, deadlock, rolledBack) { // another was first
			return 0, err
		}
	}
	return 0, lock.ErrHeld
}

// tokenOf is the token of a statement that has changed a row.
func tokenOf(result sql.Result, err error) (lock.Token, bool) {
	if err != nil {
		return 0, false
	}
	rows, _ := result.RowsAffected() // the driver has both: they cannot fail
	token, _ := result.LastInsertId()
	return lock.Token(token), rows == 1
}

func (s *tableStore) Renew(ctx context.Context, name, owner string) error {
	return s.owned(ctx, "renew a lock's row", s.sql.renew, s.ttl.Microseconds(), name, owner)
}

func (s *tableStore) Release(ctx context.Context, name, owner string) error {
	return s.owned(ctx, "release a lock's row", s.sql.release, name, owner)
}

// owned changes a row that somebody must have.
func (s *tableStore) owned(ctx context.Context, what, query string, args ...any) error {
	result, err := s.ExecContext(ctx, query, args...)
	if err != nil {
		return s.errorf(what, err)
	}
	if rows, _ := result.RowsAffected(); rows == 0 {
		return lock.ErrLost
	}
	return nil
}

// Inspect lists who holds what. Who waits does not stand in the table.
func (t *Table) Inspect(ctx context.Context) ([]lock.Info, error) {
	rows, err := t.store.QueryContext(ctx, t.store.sql.inspect)
	if isError(err, noSuchTable) {
		return nil, nil
	}
	if err != nil {
		return nil, t.store.errorf("list locks", err)
	}
	defer rows.Close()
	var all []lock.Info
	for rows.Next() {
		var name, owner string
		var token lock.Token
		if err := rows.Scan(&name, &owner, &token); err != nil {
			return nil, t.store.errorf("list locks", err)
		}
		info := lease.ParseOwner(owner)
		info.Name, info.Token = name, token
		all = append(all, info)
	}
	return all, rows.Err()
}

// Revoke takes the name from whoever has it. Its holder hears of it when it
// renews, a third of the TTL later at most.
func (t *Table) Revoke(ctx context.Context, name string) error {
	err := t.store.owned(ctx, "revoke a lock", t.store.sql.revoke, name)
	if errors.Is(err, lock.ErrLost) || isError(err, noSuchTable) {
		return fmt.Errorf("revoke %s: %w", name, lock.ErrNotHeld)
	}
	return err
}
