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

// ErrNoWrites says that a server answers, and takes no writes: it is a replica of
// another, or has lost its cluster.
var ErrNoWrites = errors.New("the server takes no writes")

// Numbers of errors by which a server refuses a write.
const (
	errOption        = 1290 // --read-only, --super-read-only
	errReadOnlyMode  = 1836 // --innodb-read-only, and the next two
	errInnoDB        = 1874
	errTable         = 1036
	errReadOnlyTx    = 1792
	errSchema        = 3989 // ALTER DATABASE ... READ ONLY = 1
	errNotPrepared   = 1047 // Galera: the node is not of the primary component. Reads are refused, too
	errHook          = 3100 // Group Replication, at COMMIT
	errOffline       = 3032
	errCommandDenied = 1142
)

// readOnly are those of a server that answers reads.
var readOnly = []uint16{errOption, errReadOnlyMode, errInnoDB, errTable, errReadOnlyTx, errSchema}

// RefusesWrites reports whether err says that a server takes no writes, so that
// the statement or the transaction was not applied. At COMMIT, too: the server rolls
// back then.
func RefusesWrites(err error) bool {
	return errors.Is(err, ErrNoWrites) || Detached(err) || hasNumber(err, readOnly...)
}

// Detached reports whether err is of a Galera node without a cluster, which refuses
// reads, too: where a read follows a write in one packet, the write may stand.
func Detached(err error) bool { return hasNumber(err, errNotPrepared) }

// isMoved reports whether connections to the server are of no use any more. That a
// connection was killed (1053, 1927) concerns that one alone.
func isMoved(err error) bool {
	return hasNumber(err, readOnly...) || hasNumber(err, errNotPrepared, errHook, errOffline)
}

func hasNumber(err error, numbers ...uint16) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && slices.Contains(numbers, e.Number)
}

const (
	// SHOW takes names that a server does not know, and a node of Galera that has
	// lost its cluster answers it.
	showVariables = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', 'innodb_read_only', 'offline_mode', " +
		"'wsrep_on', 'group_replication_group_name')"
	showGalera  = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_ready', 'wsrep_cluster_status')"
	showMembers = "SELECT IF(member_id = @@server_uuid, 'self', member_id), CONCAT(member_state, ' ', member_role) " +
		"FROM performance_schema.replication_group_members"
)

// look asks whether the server takes writes: if not, it returns ErrNoWrites, with
// the reason. Nothing is written for it. galera says that it is a node of Galera.
func look(ctx context.Context, conn driver.QueryerContext) (galera bool, err error) {
	variables, err := pairs(ctx, conn, showVariables)
	if Detached(err) {
		return true, fmt.Errorf("%w: %s", ErrNoWrites, err.Error())
	}
	if err != nil {
		return false, fmt.Errorf("ask whether the server takes writes: %w", err)
	}
	galera = isOn(variables["wsrep_on"])
	for _, name := range []string{"offline_mode", "innodb_read_only", "super_read_only", "read_only"} {
		if isOn(variables[name]) {
			return galera, fmt.Errorf("%w: %s is %s", ErrNoWrites, name, variables[name])
		}
	}
	switch {
	case galera:
		err = lookAtGalera(ctx, conn)
	case variables["group_replication_group_name"] != "":
		err = lookAtGroup(ctx, conn)
	}
	return galera, err
}

// isOn also takes the words that MariaDB 12 has for read_only.
func isOn(value string) bool { return value != "" && value != "OFF" && value != "0" }

func lookAtGalera(ctx context.Context, conn driver.QueryerContext) error {
	status, err := pairs(ctx, conn, showGalera)
	switch {
	case err != nil:
		return fmt.Errorf("ask Galera for its state: %w", err)
	case status["wsrep_ready"] != "ON", status["wsrep_cluster_status"] != "Primary":
		return fmt.Errorf("%w: wsrep_ready is %s, wsrep_cluster_status is %s", ErrNoWrites, status["wsrep_ready"], status["wsrep_cluster_status"])
	}
	return nil
}

// lookAtGroup finds a member that is not, or no longer, a primary. One that has lost
// the others is still writable, and its COMMIT hangs.
func lookAtGroup(ctx context.Context, conn driver.QueryerContext) error {
	members, err := pairs(ctx, conn, showMembers)
	if hasNumber(err, errCommandDenied) {
		return nil // super_read_only tells most of it
	}
	if err != nil {
		return fmt.Errorf("ask for the members of the group: %w", err)
	}
	if self := members["self"]; self != "ONLINE PRIMARY" {
		return fmt.Errorf("%w: in its group it is %q, not ONLINE PRIMARY", ErrNoWrites, self)
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

// pairs reads rows of two texts.
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
