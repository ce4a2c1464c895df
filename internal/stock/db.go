package stock

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/XSAM/otelsql"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	gormmysql "gorm.io/driver/mysql"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"flashsale/internal/mysqlsession"
)

// DB is a pool of connections to one database. It is safe for concurrent use.
type DB struct {
	SQL *sql.DB // the pool itself, for the hand-built statements of the hot path
	// Name is the database's name. Keys in etcd contain it, so that two databases can
	// share one etcd.
	Name      string
	orm       *gorm.DB
	connector driver.Connector            // opens connections outside of the pool
	hosts     map[string]driver.Connector // all hosts of the DSN, by address, including those that refuse writes
	looking   chan struct{}               // lets one goroutine at a time look for idle blockers
}

// rollbackTimeout bounds a ROLLBACK, and other work that must follow the end of a context.
const rollbackTimeout = time.Second

// openPool makes spans of the statements of traced requests, if provider is not nil.
// Spans have neither the text nor the arguments of a statement, which contain customers'
// names and keys.
func openPool(c driver.Connector, provider trace.TracerProvider) *sql.DB {
	if provider == nil {
		return sql.OpenDB(c)
	}
	spans := otelsql.SpanOptions{
		DisableQuery: true, DisableErrSkip: true, OmitConnResetSession: true, OmitConnPrepare: true, OmitRows: true, OmitConnectorConnect: true,
		SpanFilter: func(ctx context.Context, _ otelsql.Method, _ string, _ []driver.NamedValue) bool {
			return trace.SpanContextFromContext(ctx).IsSampled()
		},
	}
	return otelsql.OpenDB(c, otelsql.WithTracerProvider(provider), otelsql.WithAttributes(semconv.DBSystemNameMySQL), otelsql.WithSpanOptions(spans))
}

// Open makes a pool of at most conns connections to the database of a DSN in the form
// of github.com/go-sql-driver/mysql. It does not connect.
func Open(dsn string, conns int) (*DB, error) { return OpenTraced(dsn, conns, nil) }

// OpenTraced is Open with spans of the statements of traced requests; none if provider
// is nil.
func OpenTraced(dsn string, conns int, provider trace.TracerProvider) (*DB, error) {
	cfg, err := mysqlsession.Parse(dsn)
	if err != nil {
		return nil, err
	}
	// A desk sends its batch as several statements in one packet.
	cfg.MultiStatements = true
	connector, err := mysqlsession.Connector(cfg)
	if err != nil {
		return nil, err
	}
	hosts, err := mysqlsession.EachHost(cfg)
	if err != nil {
		return nil, err
	}
	pool := openPool(connector, provider)
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	orm, err := gorm.Open(
		// Initialization would ask the server for its version, and Open must not connect.
		gormmysql.New(gormmysql.Config{Conn: pool, SkipInitializeWithVersion: true}),
		&gorm.Config{SkipDefaultTransaction: true, Logger: logger.Discard, DisableAutomaticPing: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open gorm: %w", err), pool.Close())
	}
	return &DB{SQL: pool, Name: cfg.DBName, connector: connector, hosts: hosts, orm: orm, looking: make(chan struct{}, 1)}, nil
}

// Close closes the pool.
func (db *DB) Close() error { return db.SQL.Close() }

// Ping asks whether the server accepts writes. If it does not, the error is IsReadOnly.
func (db *DB) Ping(ctx context.Context) error { return db.SQL.PingContext(ctx) }

// TryWrite calls Ping and makes a write that changes no row: the server may still
// refuse it, because the schema is read-only or the account has lost a privilege.
func (db *DB) TryWrite(ctx context.Context) error {
	if err := db.Ping(ctx); err != nil {
		return err
	}
	_, err := db.SQL.ExecContext(ctx, "UPDATE guard SET strategy = strategy WHERE FALSE")
	return wrap("try to write", err)
}

// Reach connects to each host of a DSN that names several, even if it refuses writes.
// It returns the error by address; nil for a host that can be used.
func (db *DB) Reach(ctx context.Context) map[string]error {
	found := map[string]error{}
	if len(db.hosts) == 1 {
		return found
	}
	for addr, host := range db.hosts {
		conn, err := host.Connect(ctx)
		if err == nil {
			err = conn.Close()
		}
		found[addr] = err
	}
	return found
}

// countWriters counts the nodes of a Galera cluster, or the primaries of Group
// Replication. Other servers lack the variable or the table.
var countWriters = []string{
	"SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_cluster_size'",
	"SELECT 'primaries', COUNT(*) FROM performance_schema.replication_group_members WHERE member_role = 'PRIMARY' AND member_state = 'ONLINE'",
}

// Writers is how many servers of the database's cluster accept writes, as far as the
// account may see: at least one.
func (db *DB) Writers(ctx context.Context) (n int, err error) {
	n = 1
	for _, count := range countWriters {
		var name string
		var found int
		err := db.SQL.QueryRowContext(ctx, count).Scan(&name, &found)
		switch {
		case errors.Is(err, sql.ErrNoRows), IsNoTable(err), IsDenied(err):
		case err != nil:
			return 0, fmt.Errorf("count the servers that accept writes: %w", err)
		}
		n = max(n, found)
	}
	return n, nil
}

// Now is the time of the server's clock, which sets every time in the tables.
func (db *DB) Now(ctx context.Context) (now time.Time, err error) {
	err = db.SQL.QueryRowContext(ctx, "SELECT NOW(6)").Scan(&now)
	return now, wrap("read the server's clock", err)
}

// ErrNoConnection means that no connection was available: nothing was sent to the server.
var ErrNoConnection = errors.New("no connection to MySQL")

// ErrOutcomeUnknown means that a COMMIT was sent and not answered: the transaction may
// have been applied, or may be applied later.
var ErrOutcomeUnknown = errors.New("outcome of the commit is unknown")

// OutcomeOf marks the error of a COMMIT, or of a packet with one, as ErrOutcomeUnknown,
// unless the error proves that nothing was committed.
func OutcomeOf(err error) error {
	if err == nil || IsDuplicate(err) || IsStopped(err) || IsStoppedIf(err) || IsRetryable(err) || IsReadOnly(err) ||
		errors.Is(err, driver.ErrBadConn) { // the driver has sent nothing
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// InTx runs f in a transaction. If f fails, InTx rolls back and returns f's error. If
// COMMIT fails and the server did not report a rollback, the error is ErrOutcomeUnknown.
//
// InTx does not use sql.Tx: its Commit takes no context, and would wait for a server
// that does not answer until the connection times out.
func (db *DB) InTx(ctx context.Context, f func(conn *sql.Conn) error) error {
	return db.OnConn(ctx, func(conn *sql.Conn) error {
		if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		if err := f(conn); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
			return OutcomeOf(fmt.Errorf("commit: %w", err))
		}
		return nil
	})
}

// OnConn runs f on one connection of the pool. If f fails, OnConn rolls back, or closes
// the connection, before it returns the connection to the pool. After a restart of the
// server the pool is full of dead connections: the driver reports that before it sends
// anything, and OnConn runs f again on the next one.
func (db *DB) OnConn(ctx context.Context, f func(conn *sql.Conn) error) error {
	var err error
	for range db.SQL.Stats().MaxOpenConnections + 1 {
		err = db.onConn(ctx, f)
		if !errors.Is(err, driver.ErrBadConn) || errors.Is(err, ErrOutcomeUnknown) {
			return err
		}
	}
	return err
}

func (db *DB) onConn(ctx context.Context, f func(conn *sql.Conn) error) error {
	conn, err := db.SQL.Conn(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoConnection, err)
	}
	defer func() { _ = conn.Close() }() // fails only if it is closed already
	err = f(conn)
	if err == nil {
		return nil
	}
	// ctx may have ended, so the rollback has its own bound.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, rollbackErr := conn.ExecContext(undo, "ROLLBACK"); rollbackErr != nil {
		// A connection in an unknown state must not go back to the pool.
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	return err
}
