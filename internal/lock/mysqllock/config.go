package mysqllock

import (
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/lock"
	"flashsale/internal/mysqlsession"
)

const (
	// defaultConnections is for names that are locked at once, not for orders.
	defaultConnections = 32
	// maxHolder leaves a row's owner room for the name of a try.
	maxHolder = 400
)

// Config says where a Locker's server is, and who it locks for.
type Config struct {
	// DSN addresses the database, in the form of github.com/go-sql-driver/mysql.
	DSN string
	// Connections is how many the Locker's own pool may have; 0 is 32. For
	// lock-row and get-lock it bounds the names that are held or waited for.
	Connections int
	// Table is the lock's own table, of NewTable or NewRow. It is made when it
	// is missing; who may not do that makes it by TableSchema or RowSchema.
	Table string
	// TTL is how long a grant survives its process. NewRow and NewGetLock round
	// it up to whole seconds.
	TTL time.Duration
	// Owner tells people who holds a lock. The lock itself never reads it.
	Owner Owner
	// Tries is for NewRow alone: how often a Lock tries, the first time at once
	// and then each for a second in the server's queue. After the last it gives
	// up with lock.ErrHeld. Zero: it waits for as long as its context does.
	Tries int
}

// Owner is who locks.
type Owner struct {
	Replica string
	Host    string
	PID     int
}

// String is replica@host:pid.
func (o Owner) String() string { return fmt.Sprintf("%s@%s:%d", o.Replica, o.Host, o.PID) }

// identifier is what a table may be called, so that it needs no quoting rules.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// check refuses what cannot work, and fills in what may be left out.
func (cfg *Config) check(table bool) error {
	switch {
	case table && !identifier.MatchString(cfg.Table):
		return fmt.Errorf("mysql lock: %q cannot be a table's name", cfg.Table)
	case cfg.TTL < time.Second:
		return fmt.Errorf("mysql lock: TTL is %s, must be at least 1s", cfg.TTL)
	case cfg.Connections < 0, cfg.Tries < 0:
		return fmt.Errorf("mysql lock: %d connections, %d tries: must not be negative", cfg.Connections, cfg.Tries)
	case len(cfg.Owner.String()) > maxHolder:
		return fmt.Errorf("mysql lock: owner %s has more than %d bytes", cfg.Owner, maxHolder)
	}
	if cfg.Connections == 0 {
		cfg.Connections = defaultConnections
	}
	return nil
}

// pool is a Locker's own connections.
type pool struct {
	*sql.DB
	addr     string // of the server, for errors
	database string
}

// open makes a pool whose sessions have these settings beside the service's own.
// It does not connect.
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
	db.SetConnMaxIdleTime(cfg.TTL / 2) // the server may close those of a TTL's age
	return &pool{DB: db, addr: parsed.Addr, database: parsed.DBName}, nil
}

// errorf names the server in an error that may come from it.
func (p *pool) errorf(what string, err error) error {
	return fmt.Errorf("%s in MySQL at %s: %w", what, p.addr, err)
}

// Numbers of the server's errors.
const (
	accessDenied    = 1045
	databaseDenied  = 1044
	unknownDatabase = 1049
	commandDenied   = 1142
	noSuchTable     = 1146
	duplicateKey    = 1062
	lockWaitTimeout = 1205 // also MariaDB's answer to NOWAIT
	deadlock        = 1213
	rolledBack      = 3101 // Group Replication's, for what is deadlock in Galera
	lockNoWait      = 3572 // MySQL's answer to NOWAIT
	noSuchThread    = 1094
)

// isFinal reports whether waiting will not mend it, or not soon: a server that takes
// no writes. lock.ErrHeld is one that ends a wait: see Config.Tries.
func isFinal(err error) bool {
	return errors.Is(err, lock.ErrHeld) || mysqlsession.RefusesWrites(err) || isError(err, accessDenied, databaseDenied, unknownDatabase, commandDenied)
}

// isError reports whether the server answered with one of these.
func isError(err error, numbers ...uint16) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range numbers {
		if e.Number == n {
			return true
		}
	}
	return false
}

// answered reports whether the server has answered, if with an error: the
// connection is as good as before.
func answered(err error) bool {
	var e *mysql.MySQLError
	return err == nil || errors.Is(err, sql.ErrNoRows) || errors.As(err, &e)
}
