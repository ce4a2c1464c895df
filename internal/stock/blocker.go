package stock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"flashsale/internal/sleep"
)

const (
	// blockerAfter is how long a write may wait for its row before somebody
	// looks at who holds it. A transaction that is on its way is done by then.
	blockerAfter = 250 * time.Millisecond
	// blockerAgain is the time between two looks: a connection that is idle in
	// the same transaction at both is not at work. Up to as much is added to it
	// at random: InnoDB makes its list of transactions anew only for a reader
	// that comes 100 ms after the last, so that replicas which look in turn could
	// keep each other from ever seeing a new one.
	blockerAgain = 150 * time.Millisecond
	// blockerTimeout bounds looking and killing.
	blockerTimeout = 3 * time.Second
)

// writePrefix is how the statement begins with which each of the service's writes
// locks its row: a claim, a batch, a settlement.
const writePrefix = "UPDATE stock SET "

// blockersQueries find the connections that stand in the way of a statement and
// are idle inside their transaction: MariaDB's, then MySQL's, which keeps the
// waits in a table of another name. MySQL's does without INNODB_TRX and
// information_schema.PROCESSLIST, which fail there (error 3854) while any
// statement has bytes that are no text, such as an order's id.
var blockersQueries = []string{
	`SELECT DISTINCT b.trx_id, b.trx_mysql_thread_id
	FROM information_schema.INNODB_TRX r
	JOIN information_schema.INNODB_LOCK_WAITS w ON w.requesting_trx_id = r.trx_id
	JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id
	JOIN information_schema.PROCESSLIST p ON p.id = b.trx_mysql_thread_id
	WHERE r.trx_query LIKE ? AND p.command = 'Sleep'`,
	`SELECT DISTINCT w.BLOCKING_ENGINE_TRANSACTION_ID, b.id
	FROM performance_schema.data_lock_waits w
	JOIN performance_schema.processlist r ON PS_THREAD_ID(r.id) = w.REQUESTING_THREAD_ID
	JOIN performance_schema.processlist b ON PS_THREAD_ID(b.id) = w.BLOCKING_THREAD_ID
	WHERE r.info LIKE ? AND b.command = 'Sleep'`,
}

// errUnknownTable is MySQL's for a table of information_schema that it lacks.
const errUnknownTable = 1109

// Clearing runs write and, when it waits, kills whoever keeps a write of the
// service's waiting while doing nothing: a process that was stopped between a failed
// statement and its ROLLBACK, or an operator's client, holds the row for as long as
// it stands still, since its connection is alive. A connection at work is left alone.
func (db *DB) Clearing(ctx context.Context, write func() error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan error, 1)
	watch := time.AfterFunc(blockerAfter, func() { watched <- db.killIdleBlockers(ctx) })
	err := write()
	if watch.Stop() {
		return err
	}
	stop()
	// What the watch could not do matters only if the write failed.
	if watchErr := <-watched; err != nil && !errors.Is(watchErr, context.Canceled) {
		err = errors.Join(err, watchErr)
	}
	return err
}

// BlockerConnections is how many connections a DB may open beside its pool.
const BlockerConnections = 1

// killIdleBlockers looks after all writes, of any process, until ctx ends. One
// write at a time does so in this process: see blockerAgain. It has a connection
// of its own, for as long as it looks: writes that wait may hold all of the pool.
func (db *DB) killIdleBlockers(ctx context.Context) error {
	select {
	case db.looking <- struct{}{}:
		defer func() { <-db.looking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, blockerTimeout)
	defer cancel()
	own := sql.OpenDB(db.connector)
	defer own.Close()
	own.SetMaxOpenConns(BlockerConnections)
	before, err := idleBlockers(ctx, own)
	if err != nil {
		return err
	}
	for {
		if err := sleep.For(ctx, blockerAgain+rand.N(blockerAgain)); err != nil {
			return err
		}
		now, err := idleBlockers(ctx, own)
		if err != nil {
			return err
		}
		for transaction, thread := range now {
			if before[transaction] != thread {
				continue
			}
			if _, err := own.ExecContext(ctx, fmt.Sprintf("KILL CONNECTION %d", thread)); err != nil {
				return fmt.Errorf("kill the connection that blocks the write: %w", err)
			}
		}
		before = now
	}
}

// SeesBlockers tries whether the account may look for idle blockers: their threads
// and locks, and the transactions of others.
func (db *DB) SeesBlockers(ctx context.Context) error {
	if _, err := idleBlockers(ctx, db.SQL); err != nil {
		return err
	}
	// Without PROCESS an account sees its own threads alone, and no error. This
	// table wants that right on both servers, and has no text of statements.
	var n int
	return db.SQL.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.INNODB_CMP").Scan(&n)
}

// idleBlockers are connections by their transaction.
func idleBlockers(ctx context.Context, own *sql.DB) (map[string]int64, error) {
	var rows *sql.Rows
	var err error
	for _, query := range blockersQueries {
		rows, err = own.QueryContext(ctx, query, writePrefix+"%")
		if n := serverError(err); n != errUnknownTable && n != errNoSuchTable {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("look for who blocks the write: %w", err)
	}
	defer rows.Close()
	blockers := map[string]int64{}
	for rows.Next() {
		var transaction string
		var thread int64
		if err := rows.Scan(&transaction, &thread); err != nil {
			return nil, err
		}
		blockers[transaction] = thread
	}
	return blockers, rows.Err()
}
