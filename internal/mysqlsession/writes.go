package mysqlsession

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// ErrNoWrites means that a server answers but does not accept writes: it is a replica, or it is not
// part of its cluster.
var ErrNoWrites = errors.New("the server does not accept writes")

// Error numbers with which a server refuses writes.
const (
	errOption        = 1290 // --read-only, --super-read-only
	errReadOnlyMode  = 1836 // --innodb-read-only, like the next two
	errInnoDB        = 1874
	errTable         = 1036
	errReadOnlyTx    = 1792
	errSchema        = 3989 // ALTER DATABASE ... READ ONLY = 1
	errNotPrepared   = 1047 // a Galera node outside the primary component; it also refuses reads
	errHook          = 3100 // Group Replication, at COMMIT
	errOffline       = 3032
	errCommandDenied = 1142
)

var (
	// readOnly servers answer reads.
	readOnly = []uint16{errOption, errReadOnlyMode, errInnoDB, errTable, errReadOnlyTx, errSchema}
	// moved makes all connections to a server useless. A killed connection (1053, 1927) does
	// not.
	moved = slices.Concat(readOnly, []uint16{errNotPrepared, errHook, errOffline})
)

// RefusesWrites reports whether err means that the server does not accept writes and has not
// applied the statement or transaction. At COMMIT, the server rolls back.
func RefusesWrites(err error) bool {
	return errors.Is(err, ErrNoWrites) || Detached(err) || hasNumber(err, readOnly...)
}

// Detached reports whether err is of a Galera node without a cluster. It also refuses reads:
// if a read follows a write in one packet, the write may be committed.
func Detached(err error) bool { return hasNumber(err, errNotPrepared) }

// writeDenied reports whether the account may not write to a table. MariaDB reads the rights on
// a database when a connection begins to use it: an older connection would not notice a GRANT.
func writeDenied(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && e.Number == errCommandDenied && (strings.HasPrefix(e.Message, "UPDATE ") || strings.HasPrefix(e.Message, "INSERT "))
}

func hasNumber(err error, numbers ...uint16) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && slices.Contains(numbers, e.Number)
}

const (
	// SHOW accepts names of variables that a server lacks, and a detached Galera node
	// answers it.
	showVariables = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', 'innodb_read_only', 'offline_mode', " +
		"'wsrep_on', 'group_replication_group_name')"
	showGalera  = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_cluster_status')"
	showMembers = "SELECT IF(member_id = @@server_uuid, 'self', member_id), CONCAT(member_state, ' ', member_role) " +
		"FROM performance_schema.replication_group_members"
)

// checkWrites returns ErrNoWrites with the reason if the server does not accept writes. It writes
// nothing. galera reports whether the server is a Galera node.
func checkWrites(ctx context.Context, conn driver.QueryerContext) (galera bool, err error) {
	variables, err := pairs(ctx, conn, showVariables)
	if Detached(err) {
		return true, fmt.Errorf("%w: %s", ErrNoWrites, err.Error())
	}
	if err != nil {
		return false, fmt.Errorf("ask whether the server accepts writes: %w", err)
	}
	galera = isOn(variables["wsrep_on"])
	for _, name := range []string{"offline_mode", "innodb_read_only", "super_read_only", "read_only"} {
		if isOn(variables[name]) {
			return galera, fmt.Errorf("%w: %s is %s", ErrNoWrites, name, variables[name])
		}
	}
	switch {
	case galera:
		err = checkGalera(ctx, conn)
	case variables["group_replication_group_name"] != "":
		err = checkGroup(ctx, conn)
	}
	return galera, err
}

// isOn accepts the values of MariaDB 12's read_only, which are not only ON and OFF.
func isOn(value string) bool { return value != "" && value != "OFF" && value != "0" }

func checkGalera(ctx context.Context, conn driver.QueryerContext) error {
	status, err := pairs(ctx, conn, showGalera)
	switch {
	case err != nil:
		return fmt.Errorf("read Galera's status: %w", err)
	case status["wsrep_ready"] != "ON", status["wsrep_cluster_status"] != "Primary":
		return fmt.Errorf("%w: wsrep_ready is %s, wsrep_cluster_status is %s", ErrNoWrites, status["wsrep_ready"], status["wsrep_cluster_status"])
	}
	return nil
}

// checkGroup finds members that are not a primary, or that have lost the majority. The
// latter are still writable, but their COMMIT hangs.
func checkGroup(ctx context.Context, conn driver.QueryerContext) error {
	members, err := pairs(ctx, conn, showMembers)
	if hasNumber(err, errCommandDenied) {
		return nil // super_read_only shows most cases
	}
	if err != nil {
		return fmt.Errorf("read the group's members: %w", err)
	}
	if self := members["self"]; self != "ONLINE PRIMARY" {
		return fmt.Errorf("%w: its state in the group is %q, not ONLINE PRIMARY", ErrNoWrites, self)
	}
	unreachable := 0
	for _, state := range members {
		if strings.HasPrefix(state, "UNREACHABLE") {
			unreachable++
		}
	}
	if 2*unreachable >= len(members) {
		return fmt.Errorf("%w: its group has no majority: %d of %d members are unreachable", ErrNoWrites, unreachable, len(members))
	}
	return nil
}

// pairs returns the rows of a query with two text columns, by the lower-case first one.
func pairs(ctx context.Context, conn driver.QueryerContext, query string) (found map[string]string, err error) {
	rows, err := conn.QueryContext(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	found = map[string]string{}
	row := make([]driver.Value, 2)
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return nil, err
		}
		found[strings.ToLower(text(row[0]))] = text(row[1])
	}
}

func text(v driver.Value) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v)
}
