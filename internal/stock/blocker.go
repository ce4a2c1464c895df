package stock

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"flashsale/internal/sleep"
)

const (
	// blockerAfter is how long a write waits before it searches for an idle blocker. An
	// active transaction has ended by then.
	blockerAfter = 250 * time.Millisecond
	// blockerAgain is the least time between two searches. A random wait of up to as
	// much is added: InnoDB renews its list of transactions only for a reader that comes
	// 100 ms after the last, so that replicas in lockstep would never see a new list.
	blockerAgain   = 150 * time.Millisecond
	blockerTimeout = 3 * time.Second // bounds searching and killing
)

// writePrefix begins the statement by which each write of the service locks its row:
// a claim, a batch, a settlement.
const writePrefix = "UPDATE stock SET "

// LockCustomers begins the statement by which a write of orders locks its customers.
const LockCustomers = "INSERT INTO customers (customer, ordered_at) VALUES "

// blockersQueries find the connections that block a statement and are idle inside
// their transaction: first MariaDB's query, then MySQL's. MySQL's does not use
// INNODB_TRX and information_schema.PROCESSLIST, which fail there (error 3854) while
// any statement contains bytes that are not text, for example an order's id.
var blockersQueries = []string{
	`SELECT DISTINCT b.trx_id, b.trx_mysql_thread_id
	FROM information_schema.INNODB_TRX r
	JOIN information_schema.INNODB_LOCK_WAITS w ON w.requesting_trx_id = r.trx_id
	JOIN information_schema.INNODB_TRX b ON b.trx_id = w.blocking_trx_id
	JOIN information_schema.PROCESSLIST p ON p.id = b.trx_mysql_thread_id
	WHERE (r.trx_query LIKE ? OR r.trx_query LIKE ?) AND p.command = 'Sleep'`,
	`SELECT DISTINCT w.BLOCKING_ENGINE_TRANSACTION_ID, b.id
	FROM performance_schema.data_lock_waits w
	JOIN performance_schema.processlist r ON PS_THREAD_ID(r.id) = w.REQUESTING_THREAD_ID
	JOIN performance_schema.processlist b ON PS_THREAD_ID(b.id) = w.BLOCKING_THREAD_ID
	WHERE (r.info LIKE ? OR r.info LIKE ?) AND b.command = 'Sleep'`,
}

// errUnknownTable is MySQL's error for a missing table of information_schema.
const errUnknownTable = 1109

// EndingBlockers runs write. While it waits, EndingBlockers kills idle connections that block a write
// of the service: a process that was stopped between a failed statement and its ROLLBACK,
// or an operator's client, keeps the row's lock as long as its connection is open.
func (db *DB) EndingBlockers(ctx context.Context, write func() error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watched := make(chan error, 1)
	watch := time.AfterFunc(blockerAfter, func() { watched <- db.killIdleBlockers(ctx) })
	err := write()
	if watch.Stop() {
		return err
	}
	stop()
	// An error of the watch matters only if the write failed.
	if watchErr := <-watched; err != nil && !errors.Is(watchErr, context.Canceled) {
		err = errors.Join(err, watchErr)
	}
	return err
}

// BlockerConnections is how many connections a DB may open outside of its pool.
const BlockerConnections = 1

// killIdleBlockers kills the connections that block any write, and that are idle in the
// same transaction in two searches, until ctx ends. One goroutine does so at a time: see
// blockerAgain. Its connection is outside of the pool, which waiting writes may use up.
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
		for _, b := range now {
			if !slices.Contains(before, b) {
				continue
			}
			if _, err := own.ExecContext(ctx, fmt.Sprintf("KILL CONNECTION %d", b.thread)); err != nil {
				return fmt.Errorf("kill the idle connection that blocks a write: %w", err)
			}
		}
		before = now
	}
}

// SeesBlockers returns an error if the account lacks the privileges to find idle
// blockers.
func (db *DB) SeesBlockers(ctx context.Context) error {
	if _, err := idleBlockers(ctx, db.SQL); err != nil {
		return err
	}
	// Without the PROCESS privilege an account sees only its own threads, without an
	// error. This table requires PROCESS on both servers and has no statement texts.
	var n int
	return db.SQL.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.INNODB_CMP").Scan(&n)
}

// blocker is an idle connection that blocks a write, by its thread.
type blocker struct {
	transaction string
	thread      int64
}

func idleBlockers(ctx context.Context, own *sql.DB) (found []blocker, err error) {
	for _, query := range blockersQueries {
		found, err = Query(ctx, own, func(b *blocker) []any { return []any{&b.transaction, &b.thread} }, query, writePrefix+"%", LockCustomers+"%")
		if n := serverError(err); n != errUnknownTable && n != errNoSuchTable {
			break
		}
	}
	return found, wrap("look for idle connections that block a write", err)
}
