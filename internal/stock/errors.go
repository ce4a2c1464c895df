package stock

import (
	"errors"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/mysqlsession"
)

// The server's error numbers that the code acts on.
const (
	errDuplicate       = 1062
	errLockWaitTimeout = 1205
	errDeadlock        = 1213
	errRecordChanged   = 1020 // MariaDB 11.6 and later: snapshot isolation
	errRolledBack      = 3101 // Group Replication: another node's transaction came first
	errNoSuchTable     = 1146
)

// IsDuplicate reports whether err is a violation of a unique key.
func IsDuplicate(err error) bool { return serverError(err) == errDuplicate }

// IsRetryable reports whether the server gave up a transaction that may succeed if
// it runs again from its beginning. COMMIT can fail in this way as well: a node of
// Galera (errDeadlock) or of Group Replication compares a transaction with those of
// other nodes only then.
func IsRetryable(err error) bool {
	switch serverError(err) {
	case errLockWaitTimeout, errDeadlock, errRecordChanged, errRolledBack:
		return true
	}
	return false
}

// IsReadOnly reports whether the server refused to write, so that nothing was
// applied, not even by COMMIT. Another server may accept the write: see package
// mysqlsession.
func IsReadOnly(err error) bool { return mysqlsession.RefusesWrites(err) }

// IsServerError reports whether the server itself returned err: the statement was
// not applied.
func IsServerError(err error) bool { return serverError(err) != 0 }

// IsNoTable reports whether a table does not exist.
func IsNoTable(err error) bool { return serverError(err) == errNoSuchTable }

// IsDenied reports whether the account lacks a privilege.
func IsDenied(err error) bool {
	switch serverError(err) {
	case 1044, 1142, 1143, 1227: // the database, a table, a column, a global privilege
		return true
	}
	return false
}

// serverError is the number of an error that the server returned, or 0.
func serverError(err error) uint16 {
	if my, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return my.Number
	}
	return 0
}
