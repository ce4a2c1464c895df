// Package mysqlsession makes the service's connections to MySQL and MariaDB. Each
// connection sets the session variables that the service's statements depend on, whatever
// the DSN and the server's defaults are. A connection on which that fails is closed.
package mysqlsession

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// connectTimeout bounds one connection attempt, with its handshake and settings, because
	// database/sql makes some without a caller. Later calls have their own contexts.
	connectTimeout = 5 * time.Second
	// TableWait is how long a statement waits for a table that is being altered, and how
	// long ALTER waits for the statements that use the table, while others wait behind it.
	// It is longer than any transaction that serves a request. The servers' defaults are a
	// day and a year.
	TableWait = 5 * time.Second
)

// settings are the statements that each connection begins with.
var settings = []string{
	// The client's character set decides where a quoted text ends. In gbk, sjis and others,
	// the second byte of a character may be a backslash, so a caller of the service could
	// end a text and inject SQL.
	"SET NAMES utf8mb4 COLLATE utf8mb4_bin",
	// The variables of a transaction have different names on the two servers.
	"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
	// All variables in one statement. Each server skips the comment for the other.
	"SET " + strings.Join(variables, ", ") +
		" /*M!100600 , " + strings.Join(mariadbVariables, ", ") + " */" +
		" /*!80400 , " + strings.Join(mysqlVariables, ", ") + " */",
}

// variables are set on both servers. Their values are not DEFAULT, which would be the
// server's default.
//
// The list leaves out variables that change no result (of the optimizer, buffers, logs,
// warnings), that no statement of the service depends on (GROUP_CONCAT, WEEK, division,
// recursion, names of days), that only affect CREATE TABLE, and that only a DSN could set,
// because they have no global value or need a privilege: timestamp, insert_id, sql_log_bin,
// gtid_next, wsrep_on. Parse rejects those.
var variables = []string{
	// The answer to a statement outside a transaction means that it is committed.
	"autocommit = 1",
	// CHAIN would begin a transaction after each COMMIT. RELEASE would disconnect.
	"completion_type = NO_CHAIN",
	// Values that do not fit a column are refused. The other modes would change the meaning
	// of quotes, backslashes, || or the order of assignments.
	"sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
	// NOW(6) is compared with times that this process writes in UTC.
	"time_zone = '+00:00'",
	// A statement that waits longer for a row fails and is retried.
	"innodb_lock_wait_timeout = 1",
	fmt.Sprintf("lock_wait_timeout = %d", int(TableWait.Seconds())),
	// The server closes a connection that is idle for longer, and a running replica then
	// loses its stock.ReplicaLock.
	"wait_timeout = 28800",
	// Without it, InnoDB may accept duplicates of a unique key.
	"unique_checks = 1",
	"foreign_key_checks = 1",
	// These would refuse an UPDATE of all rows, and joins that may read many.
	"sql_safe_updates = 0",
	"sql_big_selects = 1",
	// It truncates every result silently.
	"sql_select_limit = 18446744073709551615",
	// ORDER BY and GROUP BY ignore differences after this length. Customers and SKUs are
	// shorter.
	"max_sort_length = 1024",
	// IS NULL would find the last inserted row.
	"sql_auto_is_null = 0",
	// The migrations' own table names no engine. Other engines have no transactions.
	"default_storage_engine = InnoDB",
}

var mariadbVariables = []string{
	// It aborts statements in the middle of a transaction.
	"max_statement_time = 0",
	// These close the connection of a lock that is a row.
	"idle_transaction_timeout = 0",
	"idle_readonly_transaction_timeout = 0",
	"idle_write_transaction_timeout = 0",
	"check_constraint_checks = 1",
	// Tables with SYSTEM VERSIONING would show the rows of an earlier time. For this
	// variable, DEFAULT is the present, whatever the server's default is.
	"system_versioning_asof = DEFAULT",
}

var mysqlVariables = []string{
	// It aborts reads.
	"max_execution_time = 0",
	// A new primary answers only after it has applied all commits of the old one.
	"group_replication_consistency = IF(@@GLOBAL.group_replication_consistency = 'EVENTUAL', " +
		"'BEFORE_ON_PRIMARY_FAILOVER', @@GLOBAL.group_replication_consistency)",
}

// syncReads makes a Galera node wait until it has applied the earlier commits of other nodes
// before it runs a SELECT or a BEGIN. An UPDATE outside a transaction need not wait: it
// changes no row that it does not see yet, and the SELECT after it shows that.
const syncReads = "SET SESSION wsrep_sync_wait = 1"

// host connects to one server and applies the session settings.
type host struct {
	driver.Connector
	settings []string
}

// Connect also connects to a server that does not accept writes.
func (h host) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	opened, _, err := h.open(ctx)
	return opened, err
}

// open connects. refusal is ErrNoWrites if the server does not accept writes.
func (h host) open(ctx context.Context) (opened session, refusal, err error) {
	raw, err := h.Connector.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	opened = raw.(session)
	defer func() {
		if err != nil {
			opened, err = nil, errors.Join(err, opened.Close())
		}
	}()
	for _, statement := range h.settings {
		if _, err := opened.ExecContext(ctx, statement, nil); err != nil {
			return opened, nil, fmt.Errorf("session settings: %w", err)
		}
	}
	galera, refusal := checkWrites(ctx, opened)
	if refusal != nil && !errors.Is(refusal, ErrNoWrites) {
		return opened, nil, refusal
	}
	if galera {
		if _, err := opened.ExecContext(ctx, syncReads, nil); err != nil {
			return opened, nil, fmt.Errorf("session settings: %w", err)
		}
	}
	return opened, refusal, nil
}

// session has the interfaces of the driver's connections that database/sql uses.
type session interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}
