package mysqllock

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/lock"
	"flashsale/internal/lock/lease"
	"flashsale/internal/mysqlsession"
)

const (
	// defaultConnections is enough for names, of which a pool locks few at once.
	defaultConnections = 32
	// maxOwner leaves space for the id of a request in the owner column.
	maxOwner = 400
)

// Config configures a Locker.
type Config struct {
	// DSN is that of github.com/go-sql-driver/mysql.
	DSN string
	// Connections is the size of the Locker's own pool; 0 is 32. Under lock-row and
	// get-lock it limits the names that are held or waited for.
	Connections int
	// Table is the table of NewTable or NewRow. The Locker creates it if it is missing.
	// An account without that right needs TableSchema or RowSchema to be applied first.
	Table string
	// TTL is how long a grant outlives its process. NewRow and NewGetLock round it up to
	// whole seconds.
	TTL time.Duration
	// Owner identifies the holder, for people: replica@host:pid.
	Owner string
	// Tries is how often a Lock of NewRow tries: at once, and then in the server's queue
	// for a second each. After the last try it returns lock.ErrHeld. 0 has no limit.
	Tries int
}

// identifier matches table names that need no quotes.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// check validates the configuration and sets defaults.
func (cfg *Config) check(table bool) error {
	switch {
	case table && !identifier.MatchString(cfg.Table):
		return fmt.Errorf("mysql lock: %q is not a table name", cfg.Table)
	case cfg.TTL < time.Second:
		return fmt.Errorf("mysql lock: TTL is %s; it must be at least 1s", cfg.TTL)
	case cfg.Connections < 0, cfg.Tries < 0:
		return fmt.Errorf("mysql lock: %d connections, %d tries: must not be negative", cfg.Connections, cfg.Tries)
	case len(cfg.Owner) > maxOwner:
		return fmt.Errorf("mysql lock: owner %s has more than %d bytes", cfg.Owner, maxOwner)
	}
	cfg.Connections = cmp.Or(cfg.Connections, defaultConnections)
	return nil
}

// pool is a Locker's own connections.
type pool struct {
	*sql.DB
	addr     string // of the server, for errors
	database string
}

// open makes a pool whose sessions have additional settings. It does not connect.
func (cfg *Config) open(settings ...string) (*pool, error) {
	parsed, err := mysqlsession.Parse(cfg.DSN)
	if err != nil {
		return nil, fmt.Errorf("mysql lock: %w", err)
	}
	connector, err := mysqlsession.Connector(parsed, settings...)
	if err != nil {
		return nil, fmt.Errorf("mysql lock: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(cfg.Connections)
	db.SetMaxIdleConns(cfg.Connections)
	db.SetConnMaxIdleTime(cfg.TTL / 2) // after a TTL, the server may close them
	return &pool{DB: db, addr: parsed.Addr, database: parsed.DBName}, nil
}

// errorf adds the server's address to an error.
func (p *pool) errorf(what string, err error) error {
	return fmt.Errorf("%s in MySQL at %s: %w", what, p.addr, err)
}

// scanInfos reads rows of a name, an owner and a token. err is that of their query.
func scanInfos(rows *sql.Rows, err error) (all []lock.Info, _ error) {
	if isError(err, noSuchTable) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, owner string
		var token lock.Token
		if err := rows.Scan(&name, &owner, &token); err != nil {
			return nil, err
		}
		info := lease.ParseOwner(owner)
		info.Name, info.Token = name, token
		all = append(all, info)
	}
	return all, rows.Err()
}

// The server's error numbers.
const (
	accessDenied    = 1045
	databaseDenied  = 1044
	unknownDatabase = 1049
	commandDenied   = 1142
	noSuchTable     = 1146
	duplicateKey    = 1062
	lockWaitTimeout = 1205 // also MariaDB's answer to NOWAIT
	deadlock        = 1213 // also a conflict in Galera
	rolledBack      = 3101 // a conflict in Group Replication
	lockNoWait      = 3572 // MySQL's answer to NOWAIT
	noSuchThread    = 1094
)

// isFinal reports whether a retry is useless: the account has no access, the server takes
// no writes, or the tries are used up (lock.ErrHeld, see Config.Tries).
func isFinal(err error) bool {
	return errors.Is(err, lock.ErrHeld) || mysqlsession.RefusesWrites(err) || isError(err, accessDenied, databaseDenied, unknownDatabase, commandDenied)
}

func isError(err error, numbers ...uint16) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && slices.Contains(numbers, e.Number)
}

// answered reports whether the server has answered, so that the connection can be used
// again.
func answered(err error) bool {
	_, ok := errors.AsType[*mysql.MySQLError](err)
	return ok || err == nil || errors.Is(err, sql.ErrNoRows)
}
