package doctor_test

import (
	"fmt"
	"strings"
	"testing"

	"flashsale/internal/doctor"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

var servers *sandbox.Stack

// The package has its own server and runs its tests one at a time, because they change
// the server's settings.
func TestMain(m *testing.M) { sandboxtest.MainOwn(m, sandbox.Config{MySQL: true}, &servers) }

// examinee is a database with an administrator and the service's account.
type examinee struct {
	t            *testing.T
	admin, owner *stock.DB
	database     string
	isMariaDB    bool
}

// newExaminee creates an account with all rights that the service needs.
func newExaminee(t *testing.T, database string) *examinee {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	p := &examinee{t: t, admin: open(t, dsn), database: database}
	var version string
	if err := p.admin.SQL.QueryRowContext(t.Context(), "SELECT VERSION()").Scan(&version); err != nil {
		t.Fatal(err)
	}
	p.isMariaDB = strings.Contains(version, "MariaDB")
	p.exec("CREATE USER " + p.account() + " IDENTIFIED BY 'pw'")
	p.exec("GRANT ALL ON " + database + ".* TO " + p.account())
	p.exec("GRANT PROCESS ON *.* TO " + p.account())
	if !p.isMariaDB {
		p.exec("GRANT SELECT ON performance_schema.data_lock_waits TO " + p.account())
	}
	_, server, _ := strings.Cut(dsn, "@")
	p.owner = open(t, database+":pw@"+server)
	return p
}

func (p *examinee) account() string { return "'" + p.database + "'@'127.0.0.1'" }

// exec runs statements after it has replaced ACCOUNT and DATABASE in them.
func (p *examinee) exec(statements ...string) {
	p.t.Helper()
	for _, statement := range statements {
		statement = strings.NewReplacer("ACCOUNT", p.account(), "DATABASE", p.database).Replace(statement)
		if _, err := p.admin.SQL.ExecContext(p.t.Context(), statement); err != nil {
			p.t.Fatalf("%s: %v", statement, err)
		}
	}
}

func (p *examinee) examine() doctor.Report {
	p.t.Helper()
	// A limit of an account applies to new connections.
	p.owner.SQL.SetMaxIdleConns(0)
	report, err := doctor.MySQL(p.t.Context(), p.owner, doctor.Needs{Connections: 40, Count: "--max-replicas 2 x 20"})
	if err != nil {
		p.t.Fatal(err)
	}
	return report
}

func open(t *testing.T, dsn string) *stock.DB {
	t.Helper()
	db, err := stock.Open(dsn, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestEachFaultIsFoundAlone(t *testing.T) {
	p := newExaminee(t, "sick")
	if err := p.admin.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		broken, repaired []string
		check            string
		severity         doctor.Severity
		wants            []string
	}{
		{[]string{"SET GLOBAL max_connections = 40"}, []string{"SET GLOBAL max_connections = 500"},
			"max_connections", doctor.Fault, []string{"allows 40", "--max-replicas 2 x 20", "raise"}},
		{[]string{"ALTER USER ACCOUNT WITH MAX_USER_CONNECTIONS 14"}, []string{"ALTER USER ACCOUNT WITH MAX_USER_CONNECTIONS 0"},
			"max_user_connections", doctor.Fault, []string{"may open 14", "needs 40", "MAX_USER_CONNECTIONS"}},
		{[]string{"ALTER USER ACCOUNT WITH MAX_QUERIES_PER_HOUR 100000 MAX_CONNECTIONS_PER_HOUR 999"},
			[]string{"ALTER USER ACCOUNT WITH MAX_QUERIES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0"},
			"account limits", doctor.Fault, []string{"MAX_QUERIES_PER_HOUR 100000", "MAX_CONNECTIONS_PER_HOUR 999", "ALTER USER"}},
		{[]string{"ALTER USER ACCOUNT WITH MAX_UPDATES_PER_HOUR 7000"}, []string{"ALTER USER ACCOUNT WITH MAX_UPDATES_PER_HOUR 0"},
			"account limits", doctor.Fault, []string{"MAX_UPDATES_PER_HOUR 7000"}},
		{[]string{"SET GLOBAL max_allowed_packet = 1048576"}, []string{"SET GLOBAL max_allowed_packet = 16777216"},
			"max_allowed_packet", doctor.Fault, []string{"it is 1048576", "4194304"}},
		{[]string{"SET GLOBAL innodb_flush_log_at_trx_commit = 2"}, []string{"SET GLOBAL innodb_flush_log_at_trx_commit = 1"},
			"durability", doctor.Warning, []string{"innodb_flush_log_at_trx_commit is 2", "to 1"}},
		{[]string{"SET GLOBAL read_only = ON"}, []string{"SET GLOBAL read_only = OFF"},
			"read-only", doctor.Fault, []string{"read_only is ON", "primary"}},
		{[]string{"ALTER TABLE leases ENGINE = MyISAM"}, []string{"ALTER TABLE leases ENGINE = InnoDB"},
			"engine", doctor.Fault, []string{"leases (MyISAM)", "ALTER TABLE"}},
		{[]string{"REVOKE INSERT, UPDATE ON DATABASE.* FROM ACCOUNT"}, []string{"GRANT ALL ON DATABASE.* TO ACCOUNT"},
			"rights", doctor.Fault, []string{"INSERT on orders", "UPDATE on orders", "GRANT SELECT, INSERT, UPDATE ON `sick`.*"}},
		{[]string{"RENAME TABLE leases TO gone"}, []string{"RENAME TABLE gone TO leases"},
			"rights", doctor.Fault, []string{"leases", "restore"}},
		{[]string{"INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"}, []string{"DELETE FROM goose_db_version WHERE version_id = 999"},
			"schema", doctor.Fault, []string{"999", "newer"}},
		{[]string{"REVOKE PROCESS ON *.* FROM ACCOUNT"}, []string{"GRANT PROCESS ON *.* TO ACCOUNT"},
			"idle blockers", doctor.Warning, []string{"cannot see them", "GRANT PROCESS"}},
	} {
		if found := append(p.examine().With(doctor.Fault), p.examine().With(doctor.Warning)...); len(found) > 0 {
			t.Fatalf("before %s: %+v", test.broken, found)
		}
		p.exec(test.broken...)
		report := p.examine()
		p.exec(test.repaired...)
		found := append(report.With(doctor.Fault), report.With(doctor.Warning)...)
		if len(found) != 1 || found[0].Check != test.check || found[0].Severity != test.severity {
			t.Errorf("%s: got %+v, want %s of %s alone", test.broken, found, test.severity, test.check)
			continue
		}
		for _, want := range test.wants {
			if !strings.Contains(found[0].String(), want) {
				t.Errorf("%s: got %q, want %q", test.broken, found[0], want)
			}
		}
		if err := report.Err(); (err != nil) != (test.severity == doctor.Fault) {
			t.Errorf("%s: the error is %v", test.broken, err)
		}
	}
}

func TestAnEmptyDatabaseNeedsTheRightToCreateTables(t *testing.T) {
	p := newExaminee(t, "vacant")
	if err := p.examine().Err(); err != nil {
		t.Error(err)
	}
	p.exec("REVOKE CREATE ON DATABASE.* FROM ACCOUNT")
	if err := p.examine().Err(); err == nil || !strings.Contains(err.Error(), "may not create tables") || !strings.Contains(err.Error(), "api migrate") {
		t.Errorf("without CREATE: got %v", err)
	}
	p.exec("GRANT CREATE ON DATABASE.* TO ACCOUNT", "SET GLOBAL read_only = ON")
	err := p.examine().Err()
	p.exec("SET GLOBAL read_only = OFF")
	if err == nil || !strings.Contains(err.Error(), "read_only is ON") {
		t.Errorf("read-only: got %v", err)
	}
	var tables int
	if err := p.admin.SQL.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'vacant'").Scan(&tables); err != nil || tables != 0 {
		t.Errorf("the examination left %d tables, %v; want none", tables, err)
	}
}

func TestDurableFollowsTheServersSettings(t *testing.T) {
	p := newExaminee(t, "durable")
	for level, want := range map[int]bool{2: false, 0: false, 1: true} {
		p.exec(fmt.Sprintf("SET GLOBAL innodb_flush_log_at_trx_commit = %d", level))
		if got, err := doctor.Durable(t.Context(), p.owner); err != nil || got != want {
			t.Errorf("innodb_flush_log_at_trx_commit = %d: got %t, %v", level, got, err)
		}
	}
	p.exec("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
}
