package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	// mysqlUser may do everything.
	mysqlUser = "flashsale"
	// maxConnections is enough for a handful of replicas with pools of 100.
	maxConnections = 500
)

// mysqlSettings are what every figure measured on the server rests on; see
// MySQL.Settings. They are durable (no commit is acknowledged before its redo is
// on disk), the same for both products, and as near to MySQL's defaults as MariaDB
// can be.
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
	// Product is which of them it is.
	Product Product
	// Version is the product with its version, for people: "MySQL 9.7.4".
	Version string

	program  *databaseProgram
	addr     string
	password string
	clients  string // the host that the account's clients come from
	dataDir  string
	tls      *TLS
	client   *tls.Config // nil for plain text
	ports    []*Port
	// connections is how many clients are let in.
	connections int
	prefix, env []string // before the program, and for it
}

// DSN addresses one database of the server, in go-sql-driver's format and with
// no parameters; "" addresses none.
func (m *MySQL) DSN(database string) string { return m.config(database).FormatDSN() }

// CreateDatabase makes an empty database and returns its DSN.
func (m *MySQL) CreateDatabase(ctx context.Context, name string) (dsn string, err error) {
	db, err := m.open("")
	if err != nil {
		return "", err
	}
	defer db.Close()
	quoted := "`" + strings.ReplaceAll(name, "`", "``") + "`"
	if _, err := db.ExecContext(ctx, "CREATE DATABASE "+quoted); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return m.DSN(name), nil
}

// Settings reads from the server the settings to state beside a figure.
func (m *MySQL) Settings(ctx context.Context) (map[string]string, error) {
	db, err := m.open("")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	marks := strings.TrimSuffix(strings.Repeat("?,", len(shownSettings)), ",")
	args := make([]any, len(shownSettings))
	for i, name := range shownSettings {
		args[i] = name
	}
	rows, err := db.QueryContext(ctx, "SHOW GLOBAL VARIABLES WHERE Variable_name IN ("+marks+")", args...)
	if err != nil {
		return nil, fmt.Errorf("read the server's settings: %w", err)
	}
	defer rows.Close()
	settings := make(map[string]string, len(shownSettings))
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return nil, fmt.Errorf("read the server's settings: %w", err)
		}
		settings[name] = value
	}
	return settings, rows.Err()
}

// startMySQL makes a data folder in dir and serves it.
func startMySQL(ctx context.Context, dir string, cfg Config) (*MySQL, error) {
	program, err := findDatabase(cfg.Database)
	if err != nil {
		return nil, err
	}
	reserved, err := ReservePort()
	if err != nil {
		return nil, err
	}
	m, err := planMySQL(program, filepath.Join(dir, "mysql"), reserved.Addr, cfg)
	if err != nil {
		return nil, err
	}
	m.ports = []*Port{reserved}
	if err := m.startAlone(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// planMySQL is a server that does not run yet, with its data in dataDir.
func planMySQL(program *databaseProgram, dataDir, addr string, cfg Config) (*MySQL, error) {
	client, err := cfg.TLS.client()
	if err != nil {
		return nil, err
	}
	return &MySQL{
		Product: program.product, program: program, addr: addr, password: Secret(), clients: "127.0.0.1",
		connections: cmp.Or(cfg.MaxConnections, maxConnections), dataDir: dataDir, tls: cfg.TLS, client: client,
	}, nil
}

// startAlone makes the data folder and the account, and serves.
func (m *MySQL) startAlone(ctx context.Context) error {
	if err := m.program.install(ctx, m.program, m.dataDir); err != nil {
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

// argv starts the server, with more options after its own: the last option counts.
func (m *MySQL) argv(more ...string) []string {
	return slices.Concat(m.prefix, m.program.argv, m.serverArgs(), more)
}

// runToItsEnd runs what makes a data folder, a script with children or one program,
// to its end or to ctx's. It stays on one thread, so that it too is killed with
// this process.
func runToItsEnd(ctx context.Context, name string, argv []string, temp string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// A server that starts removes what lies in its folder for temporary tables:
	// in one that all share, also those of another that is being installed.
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.SysProcAttr = ChildAttr()
	cmd.Cancel = func() error { return killGroup(cmd.Process) }
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		tail := strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
		return fmt.Errorf("%s: %w; it said:\n%s", name, err, indent(tail))
	}
	return nil
}

func (m *MySQL) serverArgs() []string {
	host, port, _ := net.SplitHostPort(m.addr) // our own
	args := []string{
		"--no-defaults", // first, or it is not heeded: no file of the host's is read
		"--datadir=" + m.dataDir,
		"--tmpdir=" + m.dataDir,
		"--bind-address=" + host,
		"--port=" + port,
		"--socket=", // none: TCP serves everybody, and a path has at most 107 bytes
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

// account is the SQL that the server runs, at every start and before it lets
// anybody in, for the account that DSN names.
func (m *MySQL) account() string {
	require := ""
	if m.tls != nil {
		require = " REQUIRE X509"
	}
	name := "'" + mysqlUser + "'@'" + m.clients + "'"
	return "CREATE USER IF NOT EXISTS " + name + " IDENTIFIED BY '" + m.password + "'" + require + ";\n" +
		"GRANT ALL PRIVILEGES ON *.* TO " + name + " WITH GRANT OPTION;\n"
}

// ready asks for the data folder: an answer from another server is none.
func (m *MySQL) ready(ctx context.Context) error {
	db, err := m.open("")
	if err != nil {
		return err
	}
	defer db.Close()
	var dir, version string
	if err := db.QueryRowContext(ctx, "SELECT @@datadir, @@version").Scan(&dir, &version); err != nil {
		return err
	}
	if filepath.Clean(dir) != m.dataDir {
		return fmt.Errorf("another server, of %s, answers at %s", dir, m.addr)
	}
	m.Version = named(version)
	return nil
}

// named is the product and the version of a server that calls itself version, as
// "9.7.4-2" or "10.11.14-MariaDB-0+deb12u2".
func named(version string) string {
	number, _, _ := strings.Cut(version, "-")
	if strings.Contains(version, "MariaDB") {
		return "MariaDB " + number
	}
	return "MySQL " + number
}

func (m *MySQL) config(database string) *mysql.Config {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName = mysqlUser, m.password, "tcp", m.addr, database
	cfg.TLS = m.client // which no DSN shows
	return cfg
}

func (m *MySQL) open(database string) (*sql.DB, error) {
	cfg := m.config(database)
	cfg.InterpolateParams = true
	cfg.Logger = &mysql.NopLogger{} // a server that is still starting is no news
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", m.program.name, err)
	}
	return sql.OpenDB(connector), nil
}

// superuser is the user to name to the server, which as root runs only if told
// so; any other user runs it as himself.
func superuser() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return ""
}

// findProgram looks where administrators' programs are, too: an ordinary user's
// PATH often lacks them.
func findProgram(name, packages string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, lookErr := exec.LookPath(filepath.Join(dir, name)); lookErr == nil {
			return path, nil
		}
	}
	return "", &MissingError{Program: name, Get: "make setup` or `apt-get install " + packages, err: err}
}

// MissingError says that a server's program is not installed.
type MissingError struct {
	Program string
	Get     string // the command that installs it
	err     error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed: run `%s`, "+
		"or use a MySQL server of your own with --mysql-dsn, or docker compose", e.Program, e.Get)
}

// Unwrap is exec.ErrNotFound, mostly.
func (e *MissingError) Unwrap() error { return e.err }

// Secret is a new one of 256 bits, as long as an HS256 key has to be.
func Secret() string {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // documented never to fail
	return hex.EncodeToString(secret)
}
