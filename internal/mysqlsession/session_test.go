package mysqlsession_test

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

var servers *sandbox.Stack

// The package has its own server and runs its tests one at a time, because they change the
// server's defaults.
func TestMain(m *testing.M) { sandboxtest.MainOwn(m, sandbox.Config{MySQL: true}, &servers) }

func TestParseNamesUnsupportedParameters(t *testing.T) {
	for parameters, want := range map[string]string{
		"charset=gbk":                            "charset=gbk is not supported; use utf8mb4",
		"charset=utf8&parseTime=True":            "charset=utf8 is not supported; use utf8mb4",
		"charset=latin1":                         "charset=latin1 is not",
		"charset=utf8mb4,utf8":                   "charset=utf8mb4,utf8 is not",
		"charset=utf8mb4&charset=gbk":            "charset=gbk is not",
		"charset=":                               "charset= is not",
		"collation=gbk_chinese_ci":               "collation=gbk_chinese_ci is not",
		"collation=utf8mb4_general_ci":           "collation=utf8mb4_general_ci is not",
		"autocommit=0":                           "autocommit is not",
		"@@session.autocommit=0":                 "autocommit is not",
		"sql_mode=%27NO_BACKSLASH_ESCAPES%27":    "sql_mode is not",
		"timestamp=1&sql_log_bin=0":              "sql_log_bin, timestamp are not",
		"clientFoundRows=true":                   "clientFoundRows=true is not",
		"columnsWithAlias=true":                  "columnsWithAlias=true is not",
		"checkConnLiveness=false":                "checkConnLiveness=false is not",
		"timeTruncate=1h":                        "timeTruncate=1h is not",
		"strict=true":                            "strict is not",
		"readTimeout=1s":                         "readTimeout and writeTimeout are not",
		"writeTimeout=30s":                       "readTimeout and writeTimeout are not",
		"tls=true&allowFallbackToPlaintext=true": "allowFallbackToPlaintext=true is not",
		"allowFallbackToPlaintext=true":          "allowFallbackToPlaintext=true is not",
		"maxAllowedPacket=1000":                  "maxAllowedPacket=1000 is too small",
		"clientFoundRows=perhaps":                "malformed DSN (expected user:password@tcp(host:port)/database)",
	} {
		_, err := mysqlsession.Parse("shop:pw@tcp(db:3306)/shop?" + parameters)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", parameters, err, want)
		}
	}
	for _, parameters := range []string{
		"", "?charset=utf8mb4", "?charset=UTF8MB4&parseTime=True&loc=Local", "?tls=true&timeout=1s&rejectReadOnly=true",
		"?interpolateParams=false&multiStatements=true&clientFoundRows=false&compress=true", "?maxAllowedPacket=0",
	} {
		cfg, err := mysqlsession.Parse("shop:p/w?charset=gbk@tcp(db:3306)/shop" + parameters)
		if err != nil {
			t.Errorf("%s: %v", parameters, err)
			continue
		}
		if !cfg.ParseTime || cfg.Loc.String() != "UTC" || !cfg.InterpolateParams || cfg.MultiStatements {
			t.Errorf("%s: the DSN overrides the service's choice: %+v", parameters, cfg)
		}
	}
	for hosts, want := range map[string]string{
		"tcp(db1:3306),tcp(db2:3306)": "tcp(host:port,host:port)",
		"tcp(db1:3306, db2 :3306)":    "tcp(host:port,host:port)",
		"tcp(db1:3306;db2:3306,db3)":  "tcp(host:port,host:port)",
		"tcp(db1,)":                   "empty host",
		"tcp(db:99999)":               `"99999" is not a port`,
		"tcp(db1,db2:0)":              `"0" is not a port`,
	} {
		if _, err := mysqlsession.Parse("shop:pw@" + hosts + "/shop"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", hosts, err, want)
		}
	}
	for _, dsn := range []string{"", "shop", "mysql://root@host/shop", "root@tcp(db:1)/", "root@tcp(db:1)/?charset=utf8mb4"} {
		if _, err := mysqlsession.Parse(dsn); err == nil || !strings.Contains(err.Error(), "malformed DSN") {
			t.Errorf("%s: got %v", dsn, err)
		}
	}
}

// In gbk, the backslash before a quote would be the second half of a character, and the
// quote would end the text.
func TestACharacterSetDoesNotAllowSQLInjection(t *testing.T) {
	dsn := newDSN(t)
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	admin := plain(t, dsn)
	exec(t, admin, "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, reference VARBINARY(255) NULL) ENGINE = InnoDB")
	exec(t, admin, "INSERT INTO t (id) VALUES (1), (2)")
	// The server runs init_connect only for accounts without administrative rights.
	exec(t, admin, "CREATE USER shop@'127.0.0.1' IDENTIFIED BY 'pw'")
	exec(t, admin, "GRANT ALL ON `"+cfg.DBName+"`.* TO shop@'127.0.0.1'")
	exec(t, admin, "SET GLOBAL init_connect = 'SET NAMES gbk'")
	cfg.User, cfg.Passwd = "shop", "pw"
	const reference = "\u4f60' WHERE id = 2 -- "
	exec(t, pool(t, cfg.FormatDSN()), "UPDATE t SET reference = ? WHERE id = 1", []byte(reference))
	for id, want := range map[int]string{1: reference, 2: ""} {
		var got sql.NullString
		err := admin.QueryRowContext(t.Context(), "SELECT reference FROM t WHERE id = ?", id).Scan(&got)
		if err != nil || got.String != want {
			t.Errorf("row %d has %q, %v; want %q", id, got.String, err, want)
		}
	}
}

// defaults would make answers wrong, or change the meaning of statements.
var defaults = []string{
	"autocommit = 0", "completion_type = CHAIN", "time_zone = '+05:00'",
	"sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,IGNORE_SPACE,NO_ZERO_DATE,HIGH_NOT_PRECEDENCE'",
	"innodb_lock_wait_timeout = 50", "lock_wait_timeout = 50", "wait_timeout = 100", "unique_checks = 0", "foreign_key_checks = 0",
	"sql_safe_updates = 1", "sql_big_selects = 0", "sql_select_limit = 1", "max_sort_length = 64", "sql_auto_is_null = 1",
	"default_storage_engine = MyISAM",
}

var defaultsOfMariaDB = []string{
	"tx_isolation = 'SERIALIZABLE'", "tx_read_only = 1", "max_statement_time = 50", "idle_transaction_timeout = 50",
	"idle_readonly_transaction_timeout = 50", "idle_write_transaction_timeout = 50", "check_constraint_checks = 0",
	"system_versioning_asof = '2020-01-01 00:00:00'",
}

var defaultsOfMySQL = []string{
	"transaction_isolation = 'SERIALIZABLE'", "transaction_read_only = 1", "max_execution_time = 50", "group_replication_consistency = 'EVENTUAL'",
}

func TestServerDefaultsHaveNoEffect(t *testing.T) {
	dsn := newDSN(t)
	admin, ours := plain(t, dsn), pool(t, dsn)
	exec(t, admin, "CREATE TABLE t (id INT NOT NULL PRIMARY KEY, v VARCHAR(255) NOT NULL, n INT NOT NULL DEFAULT 0) ENGINE = InnoDB CHARSET = utf8mb4")
	exec(t, admin, "INSERT INTO t (id, v) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
	want := variables(t, ours)
	all := slices.Concat(defaults, defaultsOfMySQL)
	if _, mariadb := want["system_versioning_asof"]; mariadb {
		all = slices.Concat(defaults, defaultsOfMariaDB)
	}
	// MariaDB derives sql_big_selects from max_join_size.
	exec(t, admin, "SET GLOBAL "+strings.Join(all, ", ")+", max_join_size = 1")
	ours = pool(t, dsn)
	got := variables(t, ours)
	for _, set := range all {
		name, _, _ := strings.Cut(set, " ")
		if got[name] != want[name] || want[name] == "" {
			t.Errorf("%s is %q with a changed default, and %q without", name, got[name], want[name])
		}
	}

	const hostile = "\\' \" ? \\\\ || -- 🔦"
	exec(t, ours, "UPDATE t SET v = ? WHERE id = 1", hostile)
	exec(t, ours, "BEGIN")
	exec(t, ours, "UPDATE t SET n = n + 1 WHERE id = 2")
	exec(t, ours, "COMMIT")
	exec(t, ours, "UPDATE t SET n = n + 1")
	var list []string
	rows, err := ours.QueryContext(t.Context(), "SELECT CONCAT(id, ' ', v, ' ', n) FROM t ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		list = append(list, "")
		if err := rows.Scan(&list[len(list)-1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"1 " + hostile + " 1", "2 b 2", "3 c 1"}; !slices.Equal(list, want) {
		t.Errorf("got %q, want %q", list, want)
	}
	// Acknowledged statements are committed before the connection is closed.
	_ = ours.Close()
	var n int
	if err := admin.QueryRowContext(t.Context(), "SELECT SUM(n) FROM t").Scan(&n); err != nil || n != 4 {
		t.Errorf("%d of 4 changes are committed, %v", n, err)
	}
}

var databases int

func newDSN(t *testing.T) string {
	t.Helper()
	databases++
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("sessions%d", databases))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

// pool has one connection of the kind that the service makes.
func pool(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	cfg, err := mysqlsession.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	connector, err := mysqlsession.Connector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return opened(t, sql.OpenDB(connector))
}

// plain has one connection without session settings.
func plain(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn+"?interpolateParams=true")
	if err != nil {
		t.Fatal(err)
	}
	return opened(t, db)
}

func opened(t *testing.T, db *sql.DB) *sql.DB {
	t.Helper()
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	if err := db.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return db
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// variables returns the variables of the pool's session.
func variables(t *testing.T, db *sql.DB) map[string]string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SHOW SESSION VARIABLES")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	all := map[string]string{}
	for rows.Next() {
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			t.Fatal(err)
		}
		all[name] = value
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}
