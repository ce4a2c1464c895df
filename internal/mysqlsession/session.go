// Package mysqlsession makes the service's connections to MySQL and MariaDB.
// Whatever the DSN or the server's defaults say, each connection has the session
// variables that the service's statements rely on. A connection on which they
// cannot be set is not used.
package mysqlsession

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	// connectTimeout bounds the making of one connection, its handshake and
	// settings included: database/sql makes some on its own account. What is read
	// and written later is bounded by each call's context.
	connectTimeout = 5 * time.Second
	// TableWait is how long a statement waits for a table that is being altered,
	// and an alteration for those who use the table: everybody else waits behind
	// it. It is longer than any transaction that serves a request. The server's own
	// is a day, or a year.
	TableWait = 5 * time.Second
)

// Connector makes connections of cfg, which Parse has read. more are statements
// that set what one pool needs otherwise; they follow the common settings. Of
// several hosts it finds the one that takes writes. A connection whose server does
// not any more ends as soon as its pool has it, and its Ping says so.
func Connector(cfg *mysql.Config, more ...string) (driver.Connector, error) {
	each, err := EachHost(cfg, more...)
	if err != nil {
		return nil, err
	}
	c := &connector{servers: serversOf(cfg.Addr)}
	for _, addr := range c.addrs {
		one := each[addr].(host)
		c.hosts, c.driver = append(c.hosts, one), one.Driver()
	}
	return c, nil
}

// settings are the statements that each connection begins with.
func settings() []string {
	return []string{
		// The client's charset says where a quoted text ends. In gbk, sjis and
		// others a character's second byte may be a backslash, so that the caller of
		// the service could end a text and write the rest of the statement.
		"SET NAMES utf8mb4 COLLATE utf8mb4_bin",
		// The servers name the variables of a transaction differently.
		"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
		setVariables,
	}
}

// setVariables sets all variables in one statement. Each server skips the
// comment with those of the other.
var setVariables = "SET " + strings.Join(variables, ", ") +
	" /*M!100600 , " + strings.Join(mariadbVariables, ", ") + " */" +
	" /*!80400 , " + strings.Join(mysqlVariables, ", ") + " */"

// variables are those of both servers. DEFAULT would be the server's default.
//
// Not here is what changes no result (the optimizer's, buffers, logs, warnings),
// what no statement of the service uses (GROUP_CONCAT, WEEK, division, recursion,
// names of days), what fails only the making of tables, and what has no global
// value or needs a privilege: timestamp, insert_id, sql_log_bin, gtid_next,
// wsrep_on. Nothing but a DSN could set those, and Parse refuses it.
var variables = []string{
	// The answer to a statement outside a transaction says that it is committed.
	"autocommit = 1",
	// CHAIN would begin a transaction after each COMMIT, RELEASE disconnect.
	"completion_type = NO_CHAIN",
	// What does not fit a column is refused. No mode is on that gives quotes,
	// backslashes, || or the order of assignments another meaning.
	"sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
	// NOW(6) is compared with times that this process writes in UTC.
	"time_zone = '+00:00'",
	// Who waits longer for a row gives up and tries again.
	"innodb_lock_wait_timeout = 1",
	fmt.Sprintf("lock_wait_timeout = %d", int(TableWait.Seconds())),
	// The server closes a connection that is idle for longer, and with it the
	// place of a running replica (stock.ReplicaLock).
	"wait_timeout = 28800",
	// Without it InnoDB may let two rows have one unique key.
	"unique_checks = 1",
	"foreign_key_checks = 1",
	// These refuse an UPDATE of all rows, and joins that may read many.
	"sql_safe_updates = 0",
	"sql_big_selects = 1",
	// It cuts off every list, without a word.
	"sql_select_limit = 18446744073709551615",
	// ORDER BY and GROUP BY take for equal what differs only behind it. Customers
	// and SKUs are shorter.
	"max_sort_length = 1024",
	// IS NULL would find the row that was inserted last.
	"sql_auto_is_null = 0",
	// The migrations' own table names no engine; others have no transactions.
	"default_storage_engine = InnoDB",
}

var mariadbVariables = []string{
	// It ends statements in the middle of a transaction.
	"max_statement_time = 0",
	// They end the connection of a lock that is a row.
	"idle_transaction_timeout = 0",
	"idle_readonly_transaction_timeout = 0",
	"idle_write_transaction_timeout = 0",
	// Constraints hold.
	"check_constraint_checks = 1",
	// Tables with SYSTEM VERSIONING would be read as they were at a time past.
	// Here DEFAULT is the present, whatever the server's default is.
	"system_versioning_asof = DEFAULT",
}

var mysqlVariables = []string{
	// It ends reads.
	"max_execution_time = 0",
	// A new primary answers once it has applied all that the old one committed.
	"group_replication_consistency = IF(@@GLOBAL.group_replication_consistency = 'EVENTUAL', " +
		"'BEFORE_ON_PRIMARY_FAILOVER', @@GLOBAL.group_replication_consistency)",
}

// syncReads makes what reads wait on a node of Galera until that has applied what
// other nodes had committed before: SELECT, and BEGIN for all that follows in the
// transaction. An UPDATE outside one need not wait: a row that it does not see yet it
// leaves as it is, and the SELECT behind it tells.
const syncReads = "SET SESSION wsrep_sync_wait = 1"

// host gives each new connection to one server its session settings.
type host struct {
	driver.Connector
	settings []string
}

// Connect takes a server that takes no writes, too.
func (h host) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	made, _, err := h.open(ctx)
	return made, err
}

// open connects. refusal is ErrNoWrites of a server that takes none.
func (h host) open(ctx context.Context) (made session, refusal, err error) {
	raw, err := h.Connector.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	made = raw.(session)
	for _, statement := range h.settings {
		if err := set(ctx, made, statement); err != nil {
			return nil, nil, err
		}
	}
	galera, refusal := look(ctx, made)
	if refusal != nil && !errors.Is(refusal, ErrNoWrites) {
		return nil, nil, errors.Join(refusal, made.Close())
	}
	if galera {
		if err := set(ctx, made, syncReads); err != nil {
			return nil, nil, err
		}
	}
	return made, refusal, nil
}

func set(ctx context.Context, made session, statement string) error {
	if _, err := made.ExecContext(ctx, statement, nil); err != nil {
		return errors.Join(fmt.Errorf("session settings: %w", err), made.Close())
	}
	return nil
}
