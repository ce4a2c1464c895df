package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	// mysqlUser has all privileges.
	mysqlUser = "flashsale"
	// maxConnections suffices for a handful of replicas with pools of 100.
	maxConnections = 500
)

// mysqlSettings hold for every figure measured on the server; see MySQL.Settings.
// They are durable (a commit is acknowledged once its redo log is on disk), the same
// for both products, and as close to MySQL's defaults as MariaDB allows.
var mysqlSettings = []string{
	"--innodb-flush-log-at-trx-commit=1",
	"--innodb-doublewrite=ON",
	"--skip-log-bin",
	"--transaction-isolation=READ-COMMITTED",
	"--innodb-lock-wait-timeout=1",
	"--innodb-buffer-pool-size=256M",
	"--sql-mode=ONLY_FULL_GROUP_BY,STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
	"--character-set-server=utf8mb4",
	"--default-time-zone=+00:00",
}

// shownSettings are the variables that Settings reads back.
var shownSettings = []string{
	"version", "innodb_flush_log_at_trx_commit", "innodb_doublewrite", "log_bin", "sync_binlog",
	"transaction_isolation", "tx_isolation", "innodb_lock_wait_timeout", "innodb_buffer_pool_size",
	"innodb_log_file_size", "innodb_redo_log_capacity", "performance_schema", "max_connections",
}

// MySQL is a private server of MySQL or MariaDB.
type MySQL struct {
	*Process
	Product Product
	// Version is the product and its version, for people: "MySQL 9.7.4".
	Version string

	program  *databaseProgram
	addr     string
	user     string
	password string
	clients  string // the host that the account accepts clients from
	dataDir  string
	tls      *TLS
	client   *tls.Config // nil for plain text
	ports    []*Port

	connections int      // the most clients
	created     []string // databases of a shared server, quoted
	prefix, env []string // of the command line, and the environment
	mounts      *namespace
	ballast     string // a file on the small disk; "" for none
	clock       string // the file that says how far the wall clock is off; "" for none
	jumped      time.Duration
}

// DSN names a database of the server, or none for "". It has go-sql-driver's format
// and no parameters.
func (m *MySQL) DSN(database string) string { return m.config(database).FormatDSN() }

// CreateDatabase creates an empty database and returns its DSN.
func (m *MySQL) CreateDatabase(ctx context.Context, name string) (dsn string, err error) {
	quoted := quote(name)
	statements := []string{"CREATE DATABASE " + quoted}
	if m.Shared() { // an earlier run may have been killed
		m.created = append(m.created, quoted)
		statements = append([]string{"DROP DATABASE IF EXISTS " + quoted}, statements...)
	}
	if err := m.exec(ctx, statements...); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return m.DSN(name), nil
}

func quote(database string) string { return "`" + strings.ReplaceAll(database, "`", "``") + "`" }

// Settings reads the settings that belong beside a measured figure.
func (m *MySQL) Settings(ctx context.Context) (map[string]string, error) {
	settings := make(map[string]string, len(shownSettings))
	query := "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('" + strings.Join(shownSettings, "','") + "')"
	err := m.each(ctx, query, func(rows *sql.Rows) error {
		var name, value string
		err := rows.Scan(&name, &value)
		settings[name] = value
		return err
	})
	return settings, err
}

// startMySQL creates a data folder in dir and starts a server on it.
func startMySQL(ctx context.Context, dir string, cfg Config, network *Network) (*MySQL, error) {
	program, err := findDatabase(cfg.Database)
	if err != nil {
		return nil, err
	}
	at, err := network.place(ctx, mysqlName(0), mysqlPort)
	if err != nil {
		return nil, err
	}
	m, err := planMySQL(program, filepath.Join(dir, "mysql"), at, cfg)
	if err != nil {
		return nil, err
	}
	err = m.mount(ctx, cfg)
	if err == nil {
		err = m.startAlone(ctx)
	}
	if err != nil {
		m.unmount()
		return nil, err
	}
	return m, nil
}

// planMySQL returns a server that does not run yet, with its data in dataDir.
func planMySQL(program *databaseProgram, dataDir string, at place, cfg Config) (*MySQL, error) {
	client, err := cfg.TLS.client()
	if err != nil {
		return nil, err
	}
	m := &MySQL{
		Product: program.product, program: program, addr: at.addrs[0], ports: at.ports, prefix: at.enter, user: mysqlUser, password: Secret(), clients: loopback,
		connections: cmp.Or(cfg.MaxConnections, maxConnections), dataDir: dataDir, tls: cfg.TLS, client: client,
	}
	if at.enter != nil {
		m.clients = "%"
	}
	return m, nil
}

// mysqlPort is the port on a host of its own.
const mysqlPort = 3306

func mysqlName(i int) string { return fmt.Sprintf("mysql-%d", i+1) }

// startAlone creates the data folder and the account, and starts the server outside
// of any cluster.
func (m *MySQL) startAlone(ctx context.Context) error {
	install := slices.Concat(m.prefix, m.program.install(m.program, m.dataDir))
	if err := runToItsEnd(ctx, "create the data folder of "+m.program.name, install, filepath.Dir(m.dataDir)); err != nil {
		return err
	}
	accounts := m.dataDir + "-accounts.sql"
	if err := os.WriteFile(accounts, []byte(m.program.accounts(m.account())), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", accounts, err)
	}
	return m.startProcess(ctx, m.argv("--init-file="+accounts))
}

// startProcess starts the server for the first time.
func (m *MySQL) startProcess(ctx context.Context, argv []string) (err error) {
	m.Process, err = StartProcess(ctx, ProcessConfig{
		Name: m.program.name, Argv: argv, Env: m.env, LogPath: m.dataDir + ".log", Ports: m.ports, Ready: m.ready,
	})
	return err
}

// argv is the server's command line. Of an option that is repeated, the last one
// counts.
func (m *MySQL) argv(more ...string) []string {
	return slices.Concat(m.prefix, m.program.argv, m.serverArgs(), more)
}

func (m *MySQL) serverArgs() []string {
	host, port, _ := net.SplitHostPort(m.addr) // our own
	args := []string{
		"--no-defaults", // ignores this machine's files; must come first
		"--datadir=" + m.dataDir,
		"--tmpdir=" + m.dataDir,
		"--bind-address=" + host,
		"--port=" + port,
		"--socket=", // none: TCP suffices, and a path is limited to 107 bytes
		"--pid-file=" + filepath.Join(m.dataDir, "mysqld.pid"),
		"--skip-name-resolve",
		"--max-connections=" + strconv.Itoa(m.connections),
	}
	if user := superuser(); user != "" {
		args = append(args, "--user="+user)
	}
	if m.tls != nil {
		args = append(args, "--require-secure-transport=ON", "--ssl-ca="+m.tls.CA, "--ssl-cert="+m.tls.Cert, "--ssl-key="+m.tls.Key)
	}
	return slices.Concat(args, mysqlSettings, m.program.settings)
}

// account is the SQL that creates the account of DSN. The server runs it at every
// start, before it accepts clients.
func (m *MySQL) account() string {
	name, options := m.identity(mysqlUser)
	return "CREATE USER IF NOT EXISTS " + name + options + ";\n" +
		"GRANT ALL PRIVILEGES ON *.* TO " + name + " WITH GRANT OPTION;\n"
}

// identity returns an account's quoted name and the options of CREATE USER. All accounts
// have the same password.
func (m *MySQL) identity(user string) (name, options string) {
	options = " IDENTIFIED BY '" + m.password + "'"
	if m.tls != nil {
		options += " REQUIRE X509"
	}
	return "'" + user + "'@'" + m.clients + "'", options
}

// createAccount creates an account with the rights that docs/databases.md lists. They do
// not include those to migrate and to purge.
func (m *MySQL) createAccount(ctx context.Context, database, user string) error {
	if m.Shared() {
		return errors.New("not supported on a server of others")
	}
	name, options := m.identity(user)
	statements := []string{
		"CREATE USER " + name + options,
		"GRANT SELECT, INSERT, UPDATE ON " + quote(database) + ".* TO " + name,
		"GRANT PROCESS ON *.* TO " + name,
	}
	if m.Product == RealMySQL {
		statements = append(statements, "GRANT SELECT ON performance_schema.data_lock_waits TO "+name,
			"GRANT SELECT ON performance_schema.replication_group_members TO "+name)
	}
	return m.exec(ctx, statements...)
}

// ready compares the server's data folder with ours: another server may answer at
// the address.
func (m *MySQL) ready(ctx context.Context) error {
	var dir, version string
	if err := m.ask(ctx, "SELECT @@datadir, @@version", &dir, &version); err != nil {
		return err
	}
	if filepath.Clean(dir) != m.dataDir {
		return fmt.Errorf("the server at %s is another one: its folder is %s", m.addr, dir)
	}
	m.Version = productVersion(version)
	return nil
}

// productVersion makes "MySQL 9.7.4" from "9.7.4-2", and "MariaDB 10.11.14" from
// "10.11.14-MariaDB-0+deb12u2".
func productVersion(version string) string {
	number, _, _ := strings.Cut(version, "-")
	if strings.Contains(version, "MariaDB") {
		return "MariaDB " + number
	}
	return "MySQL " + number
}

func (m *MySQL) config(database string) *mysql.Config {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName = m.user, m.password, "tcp", m.addr, database
	cfg.TLS = m.client // not part of the DSN
	return cfg
}

func (m *MySQL) open() (*sql.DB, error) {
	cfg := m.config("")
	cfg.InterpolateParams = true
	cfg.Logger = &mysql.NopLogger{} // refused connections are normal while it starts
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", m.program.name, err)
	}
	return sql.OpenDB(connector), nil
}

// exec runs statements on one connection.
func (m *MySQL) exec(ctx context.Context, statements ...string) error {
	db, err := m.open()
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err // without the statement, which may contain the password
		}
	}
	return nil
}

// each calls scan for each row.
func (m *MySQL) each(ctx context.Context, query string, scan func(*sql.Rows) error) error {
	db, err := m.open()
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer rows.Close()
	for err == nil && rows.Next() {
		err = scan(rows)
	}
	if err = errors.Join(err, rows.Err()); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	return nil
}

// ask reads one row.
func (m *MySQL) ask(ctx context.Context, query string, into ...any) error {
	db, err := m.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return db.QueryRowContext(ctx, query).Scan(into...)
}

// restartWith restarts the server with another command line.
func (m *MySQL) restartWith(ctx context.Context, argv []string) error {
	m.lifecycle.Lock()
	defer m.lifecycle.Unlock()
	if err := m.stop(ctx); err != nil {
		return err
	}
	m.cfg.Argv = argv
	return m.start(ctx)
}

// binlogOptions log every transaction a second time and sync that log at each
// commit, as on a server with replicas. They must follow mysqlSettings, which has
// --skip-log-bin.
var binlogOptions = []string{"--log-bin=binlog", "--server-id=1", "--binlog-format=ROW", "--sync-binlog=1"}

// SetBinlog restarts the server with or without a synced binlog, on the same port
// and data. Clients must reconnect.
func (m *MySQL) SetBinlog(ctx context.Context, on bool) error {
	m.lifecycle.Lock()
	argv := slices.Clone(m.cfg.Argv)
	m.lifecycle.Unlock()
	argv = slices.DeleteFunc(argv, func(option string) bool { return slices.Contains(binlogOptions, option) })
	if on {
		argv = append(argv, binlogOptions...)
	}
	return m.restartWith(ctx, argv)
}

// Connection is a client's connection, as the server lists it.
type Connection struct {
	ID       int64
	Database string
	Command  string // "Sleep", "Query"
	State    string // what it waits for, in the server's words
	Info     string // the statement that it runs
}

// Connections lists the server's connections, including that of this call. Of all
// ways to list them, both products answer only SHOW whatever bytes the statements
// contain.
func (m *MySQL) Connections(ctx context.Context) (all []Connection, err error) {
	err = m.each(ctx, "SHOW FULL PROCESSLIST", func(rows *sql.Rows) error {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		var c Connection
		var other sql.RawBytes
		var database, state, info sql.NullString
		// Id, User, Host, db, Command, Time, State, Info; MariaDB adds Progress.
		fields := []any{&c.ID, &other, &other, &database, &c.Command, &other, &state, &info, &other}
		err = rows.Scan(fields[:min(len(columns), len(fields))]...)
		c.Database, c.State, c.Info = database.String, state.String, info.String
		all = append(all, c)
		return err
	})
	return all, err
}

// Secret returns a random secret of 256 bits, the least that HS256 allows.
func Secret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // documented never to fail
	return hex.EncodeToString(secret)
}
