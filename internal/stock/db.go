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
	// SQL is the pool itself, for the hot path's hand-built statements.
	SQL *sql.DB
	// Name is the database's name. Keys in etcd carry it, so that two
	// databases can share one etcd.
	Name string
	orm  *gorm.DB
	// connector makes connections that are not the pool's.
	connector driver.Connector
	// hosts are all that the DSN names, by their addresses, also those that take
	// no writes.
	hosts map[string]driver.Connector
	// looking holds the one who looks for what blocks claims.
	looking chan struct{}
}

const (
	// rollbackTimeout bounds the giving back of a transaction.
	rollbackTimeout = time.Second
	tableWait       = mysqlsession.TableWait
)

// Option is a choice of Open's caller.
type Option func(*options)

type options struct{ traces trace.TracerProvider }

// Traced makes spans of the statements of traced requests; with a nil provider
// nothing stands between the pool and its driver. Neither text nor arguments of a
// statement are in them: these are buyers' names and keys.
func Traced(provider trace.TracerProvider) Option {
	return func(o *options) { o.traces = provider }
}

// openPool makes the pool of a connector.
func openPool(c driver.Connector, choices []Option) *sql.DB {
	var o options
	for _, choose := range choices {
		choose(&o)
	}
	if o.traces == nil {
		return sql.OpenDB(c)
	}
	return otelsql.OpenDB(c, otelsql.WithTracerProvider(o.traces),
		otelsql.WithAttributes(semconv.DBSystemNameMySQL), otelsql.WithSpanOptions(otelsql.SpanOptions{
			DisableQuery: true, DisableErrSkip: true, OmitConnResetSession: true, OmitConnPrepare: true, OmitRows: true, OmitConnectorConnect: true,
			SpanFilter: func(ctx context.Context, _ otelsql.Method, _ string, _ []driver.NamedValue) bool {
				return trace.SpanContextFromContext(ctx).IsSampled()
			},
		}))
}

// Open makes a pool of at most conns connections to the database that dsn
// names, in the form of github.com/go-sql-driver/mysql. It does not connect.
func Open(dsn string, conns int, choices ...Option) (*DB, error) {
	cfg, err := mysqlsession.Parse(dsn)
	if err != nil {
		return nil, err
	}
	// Several statements in one packet are what the desk's batch rests on.
	cfg.MultiStatements = true
	connector, err := mysqlsession.Connector(cfg)
	if err != nil {
		return nil, err
	}
	hosts, err := mysqlsession.EachHost(cfg)
	if err != nil {
		return nil, err
	}
	pool := openPool(connector, choices)
	pool.SetMaxOpenConns(conns)
	pool.SetMaxIdleConns(conns)
	orm, err := gorm.Open(
		// The server's version is asked for at start, which is not yet.
		gormmysql.New(gormmysql.Config{Conn: pool, SkipInitializeWithVersion: true}),
		&gorm.Config{SkipDefaultTransaction: true, Logger: logger.Discard, DisableAutomaticPing: true})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open gorm: %w", err), pool.Close())
	}
	return &DB{SQL: pool, Name: cfg.DBName, connector: connector, hosts: hosts, orm: orm, looking: make(chan struct{}, 1)}, nil
}

// Close closes the pool.
func (db *DB) Close() error { return db.SQL.Close() }

// Ping asks the server whether it takes writes. An answer that it does not is
// IsReadOnly.
func (db *DB) Ping(ctx context.Context) error { return db.SQL.PingContext(ctx) }

// TryWrite is Ping, and a write that changes no row: a server that takes writes may
// still refuse ours, for a schema that is read-only or a right that was taken away.
func (db *DB) TryWrite(ctx context.Context) error {
	if err := db.Ping(ctx); err != nil {
		return err
	}
	if _, err := db.SQL.ExecContext(ctx, "UPDATE guard SET strategy = strategy WHERE FALSE"); err != nil {
		return fmt.Errorf("try to write: %w", err)
	}
	return nil
}

// Reach connects to each of several hosts that the DSN names, whether or not it takes
// writes, and returns by its address why one cannot be used. Of one host it is empty.
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

// countWriters counts the nodes of Galera, or the primaries of a group. Servers that
// are neither have no such variable, or no such table.
var countWriters = []string{
	"SHOW GLOBAL STATUS WHERE Variable_name = 'wsrep_cluster_size'",
	"SELECT 'primaries', COUNT(*) FROM performance_schema.replication_group_members WHERE member_role = 'PRIMARY' AND member_state = 'ONLINE'",
}

// Writers is how many servers of the database's cluster take writes, as far as the
// account may see that: one at least.
func (db *DB) Writers(ctx context.Context) (n int, err error) {
	n = 1
	for _, count := range countWriters {
		var name string
		var found int
		err := db.SQL.QueryRowContext(ctx, count).Scan(&name, &found)
		switch {
		case errors.Is(err, sql.ErrNoRows), IsNoTable(err), IsDenied(err):
		case err != nil:
			return 0, fmt.Errorf("count the servers that take writes: %w", err)
		}
		n = max(n, found)
	}
	return n, nil
}

// Now is the time by the server's clock, which every time in the tables is of.
func (db *DB) Now(ctx context.Context) (now time.Time, err error) {
	if err := db.SQL.QueryRowContext(ctx, "SELECT NOW(6)").Scan(&now); err != nil {
		return now, fmt.Errorf("read the server's clock: %w", err)
	}
	return now, nil
}

// ErrNoConnection says that the server was not asked: no connection was to be had.
var ErrNoConnection = errors.New("no connection to MySQL")

// ErrOutcomeUnknown says that a COMMIT was sent and its answer did not come:
// the transaction may have been applied, or may be yet.
var ErrOutcomeUnknown = errors.New("outcome of the commit is unknown")

// InTx runs f in a transaction of its own. When f fails, the transaction is
// rolled back and f's error returned; when COMMIT fails without the server's
// word that it rolled back, the error is ErrOutcomeUnknown.
//
// sql.Tx is not used: its Commit knows no context, and would wait for a server
// that does not answer until the connection's own time-out.
func (db *DB) InTx(ctx context.Context, f func(conn *sql.Conn) error) error {
	return db.OnConn(ctx, func(conn *sql.Conn) error {
		if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		if err := f(conn); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
			if IsRetryable(err) || IsReadOnly(err) {
				return fmt.Errorf("commit: %w", err)
			}
			return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
		}
		return nil
	})
}

// OnConn runs f on one connection of the pool. When f fails, what it began is
// rolled back, or the connection closed, before another can have it. After a
// restart of the server the pool is full of dead connections: the driver says
// so before it sends anything, and f is run again on the next one.
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
	// Close gives the connection back; it fails only where it is closed already.
	defer func() { _ = conn.Close() }()
	err = f(conn)
	if err == nil {
		return nil
	}
	// ctx may be what ended f; the rollback has a bound of its own.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	if _, rollbackErr := conn.ExecContext(undo, "ROLLBACK"); rollbackErr != nil {
		// A connection in an unknown state must not go back to the pool.
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	return err
}
