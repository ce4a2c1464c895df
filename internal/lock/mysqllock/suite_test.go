package mysqllock

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	testTTL   = 2 * time.Second
	tableName = "lock_table"
	rowName   = "lock_row"
	// patience bounds a call that must succeed.
	patience = 20 * time.Second
)

var (
	tableBackend = locktest.Backend{
		Name: "lock-table", Capabilities: TableCapabilities, TTL: testTTL, Start: start(tableView{}),
		LongTTL: time.Minute, Open: openWith(NewTable, tableName),
	}
	rowBackend = locktest.Backend{
		Name: "lock-row", Capabilities: RowCapabilities, TTL: testTTL, Start: start(rowView{}),
		LongTTL: time.Minute, Open: openWith(NewRow, rowName),
	}
	getLockBackend = locktest.Backend{
		Name: "get-lock", Capabilities: GetLockCapabilities, TTL: testTTL, Start: start(getLockView{}),
		LongTTL: time.Minute, Open: openWith(NewGetLock, ""),
	}
)

func TestMain(m *testing.M) { locktest.Main(m, tableBackend, rowBackend, getLockBackend) }

func TestTable(t *testing.T) { locktest.Run(t, tableBackend) }

func TestRow(t *testing.T) { locktest.Run(t, rowBackend) }

func TestGetLock(t *testing.T) { locktest.Run(t, getLockBackend) }

// openWith returns the Open of a back-end.
func openWith[L lock.Locker](newLocker func(Config) (L, error), table string) func(string, time.Duration) (lock.Locker, func() error, error) {
	return func(dsn string, ttl time.Duration) (lock.Locker, func() error, error) {
		cfg := testConfig(dsn, table)
		cfg.TTL = ttl
		l, err := newLocker(cfg)
		return l, func() error { return nil }, err // the Locker closes its own connections
	}
}

func testConfig(dsn, table string) Config {
	return Config{DSN: dsn, Table: table, TTL: testTTL, Owner: "r@h:1"}
}

// view shows one of the locks as an administrator sees it.
type view interface {
	// holder is the owner of a row of lock-table, or the id of the holding session.
	holder(s *server, name string) (entry string, err error)
	// waiter is the statement that a waiting session runs, or "" if the lock has none.
	waiter(s *server, name string) (statement string)
	remove(s *server, entry string) error
}

// server is a database server with an administrator's connections.
type server struct {
	*sandbox.MySQL
	sandboxtest.Processes
	view     view
	database string
	dsn      string
	db       *sql.DB
}

func start(v view) func(testing.TB) locktest.Server {
	return func(tb testing.TB) locktest.Server { return startServer(tb, v) }
}

func startServer(tb testing.TB, v view) *server {
	tb.Helper()
	stack := sandboxtest.Start(tb, sandbox.Config{MySQL: true})
	return (&server{MySQL: stack.MySQL}).withDatabase(tb, "locks", v)
}

// withDatabase returns the same server with a new database.
func (s *server) withDatabase(tb testing.TB, database string, v view) *server {
	tb.Helper()
	dsn, err := s.CreateDatabase(tb.Context(), database)
	if err != nil {
		tb.Fatal(err)
	}
	cfg := Config{DSN: dsn, Connections: 4, TTL: time.Minute}
	// The administrator's reads must not wait for a holder.
	pool, err := cfg.open("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { pool.Close() })
	return &server{MySQL: s.MySQL, Processes: sandboxtest.Processes{s.Process}, view: v, database: database, dsn: dsn, db: pool.DB}
}

func (s *server) Address() string { return s.dsn }

func (s *server) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	holder, err := s.view.holder(s, name)
	if err != nil {
		tb.Fatal(err)
	}
	var entries []string
	if holder != "" {
		entries = append(entries, holder)
	}
	waits := s.view.waiter(s, name)
	for _, c := range s.connections(tb) {
		id := fmt.Sprint(c.ID)
		if c.Command == "Query" && c.Info == waits && id != holder {
			entries = append(entries, id)
		}
	}
	return entries
}

// connections returns the server's connections, the oldest first.
func (s *server) connections(tb testing.TB) []sandbox.Connection {
	tb.Helper()
	all, err := s.Connections(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	slices.SortFunc(all, func(a, b sandbox.Connection) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func (s *server) Remove(tb testing.TB, entry string) {
	tb.Helper()
	if err := s.view.remove(s, entry); err != nil {
		tb.Fatal(err)
	}
}

// Revoke is Remove, because the lease has only this entry.
func (s *server) Revoke(tb testing.TB, entry string) { s.Remove(tb, entry) }

// text returns the single value of a query, or "" for no row.
func (s *server) text(query string, args ...any) (string, error) {
	var text sql.NullString
	err := s.db.QueryRowContext(context.Background(), query, args...).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) || isError(err, noSuchTable) {
		err = nil
	}
	return text.String, err
}

func (s *server) exec(query string, args ...any) error {
	_, err := s.db.ExecContext(context.Background(), query, args...)
	return err
}

func (s *server) kill(session string) error { return s.exec("KILL " + session) }

type tableView struct{}

func (tableView) holder(s *server, name string) (string, error) {
	return s.text("SELECT owner FROM "+tableName+" WHERE name = ? AND owner <> '' AND expires_at > NOW(6)", name)
}

func (tableView) waiter(*server, string) string { return "" }

// remove keeps the row with its counter, as Revoke does.
func (tableView) remove(s *server, entry string) error {
	return s.exec("UPDATE "+tableName+" SET owner = '' WHERE owner = ?", entry)
}

type rowView struct{}

func (rowView) holder(s *server, name string) (string, error) {
	return s.text("SELECT session FROM "+rowName+" WHERE name = ?", name)
}

func (rowView) waiter(_ *server, name string) string {
	return fmt.Sprintf("SELECT name FROM %s WHERE name = '%s' FOR UPDATE", rowName, name)
}

func (rowView) remove(s *server, entry string) error { return s.kill(entry) }

type getLockView struct{}

func (getLockView) holder(s *server, name string) (string, error) {
	return s.text("SELECT IS_USED_LOCK(?)", getLock{s.database}.serverName(name))
}

func (getLockView) waiter(s *server, name string) string {
	return fmt.Sprintf("SELECT GET_LOCK('%s', %d)", getLock{s.database}.serverName(name), awaitSeconds)
}

func (getLockView) remove(s *server, entry string) error { return s.kill(entry) }

// rowsOf returns the number of rows of a table.
func (s *server) rowsOf(tb testing.TB, table string) string {
	tb.Helper()
	n, err := s.text("SELECT COUNT(*) FROM " + table)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(n)
}
