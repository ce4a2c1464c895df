package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"flashsale/internal/doctor"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// withAccount returns the DSN with a new account that has all rights on the database,
// and the options.
func withAccount(t *testing.T, dsn, options string) string {
	t.Helper()
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	db, account := openDB(t, dsn), "'"+cfg.DBName+"'@'127.0.0.1'"
	for _, statement := range []string{
		"CREATE USER " + account + " IDENTIFIED BY 'hidden'", "GRANT ALL ON `" + cfg.DBName + "`.* TO " + account, "ALTER USER " + account + " " + options,
	} {
		if _, err := db.SQL.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	cfg.User, cfg.Passwd = cfg.DBName, "hidden"
	return cfg.FormatDSN()
}

// If waiting cannot help, the start fails at once and says what to do. The other
// commands and the doctor say the same.
func TestStartEndsAtOnceWhereWaitingDoesNotHelp(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	changed := func(change func(*mysql.Config)) string {
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		change(cfg)
		return cfg.FormatDSN()
	}
	foreign, err := mysql.ParseDSN(withAccount(t, newDSN(t), "ACCOUNT UNLOCK"))
	if err != nil {
		t.Fatal(err)
	}
	foreign.DBName = "mysql"
	for name, test := range map[string]struct{ dsn, want string }{
		"a wrong password":     {changed(func(c *mysql.Config) { c.Passwd = "hidden" }), "check the user and password in --mysql-dsn"},
		"no such database":     {changed(func(c *mysql.Config) { c.DBName = "nowhere" }), "CREATE DATABASE"},
		"another's database":   {foreign.FormatDSN(), "GRANT SELECT, INSERT, UPDATE ON database.*"},
		"no such host":         {changed(func(c *mysql.Config) { c.Addr = "nowhere.invalid:3306" }), "nowhere.invalid"},
		"a server without TLS": {changed(func(c *mysql.Config) { c.TLSConfig = "true" }), "--mysql-ca"},
		"a locked account":     {withAccount(t, newDSN(t), "ACCOUNT LOCK"), "ACCOUNT UNLOCK"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{
				{"serve", "--addr=127.0.0.1:0", "--strategy=conditional", "--start-timeout=5m", "--admin-token=" + adminToken, "--jwt-secret=" + secret},
				{"audit"},
				{"doctor", "--json", "--strategy=conditional"},
			} {
				out, err := tool(t, append(args, "--mysql-dsn="+test.dsn)...)
				if err == nil {
					t.Fatalf("%s: no error", args[0])
				}
				words := out + err.Error()
				if !strings.Contains(words, test.want) || strings.Contains(words, "--start-timeout") || strings.Contains(words, "hidden") {
					t.Errorf("api %s: got %q, want %q", args[0], words, test.want)
				}
			}
		})
	}
}

// examine calls the doctor and returns its findings.
func examine(t *testing.T, args ...string) (report doctor.Report, err error) {
	t.Helper()
	out, err := tool(t, append([]string{"doctor", "--json"}, args...)...)
	var answer struct {
		OK               bool
		Faults, Warnings int
		Findings         doctor.Report
	}
	if jsonErr := json.Unmarshal([]byte(out), &answer); jsonErr != nil {
		t.Fatalf("%v: %s", jsonErr, out)
	}
	if answer.OK != (err == nil) || answer.Faults != len(answer.Findings.With(doctor.Fault)) {
		t.Errorf("ok is %t with %d faults, and the error is %v", answer.OK, answer.Faults, err)
	}
	return answer.Findings, err
}

// A replica with a primary sells; the doctor still warns about hosts that it could not
// switch to.
func TestDoctorNamesEachHostThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	two := strings.Replace(dsn, "@tcp(", "@tcp(127.0.0.1:1,nowhere.invalid,", 1)
	report, err := examine(t, "--strategy=conditional", "--mysql-dsn="+two)
	if err != nil {
		t.Fatalf("%v: %v", err, report)
	}
	for server, want := range map[string]string{
		"MySQL at 127.0.0.1:1": "connection refused; start it, or remove it from --mysql-dsn", "MySQL at nowhere.invalid:3306": "correct the host in --mysql-dsn",
	} {
		if !slices.ContainsFunc(report.With(doctor.Warning), func(f doctor.Finding) bool {
			return f.Server == server && f.Check == doctor.Answers && strings.Contains(f.String(), want)
		}) {
			t.Errorf("no warning about %s with %q: %v", server, want, report)
		}
	}
	if one, _ := examine(t, "--strategy=conditional", "--mysql-dsn="+dsn); len(one) != len(report)-3 {
		t.Errorf("of one host: %v", one)
	}
}

func TestDoctorFindsNoFaultInHealthyServers(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	args := []string{"--mysql-dsn=" + dsn, "--etcd-endpoints=" + strings.Join(servers.EtcdEndpoints(), ",")}
	for _, state := range []string{"before the first replica", "beside a replica"} {
		report, err := examine(t, args...)
		seen := map[string]bool{}
		for _, f := range report {
			seen[strings.Fields(f.Server)[0]] = true
			if f.Severity != doctor.Fine {
				t.Errorf("%s: %+v", state, f)
			}
		}
		if err != nil || !seen["MySQL"] || !seen["etcd"] {
			t.Errorf("%s: %v, %+v", state, err, report)
		}
		if state == "before the first replica" {
			start(t, replicaConfig(dsn, "a", strategy.Default))
		}
	}
	if report, err := examine(t, append(args, "--fence=off")...); err == nil || !strings.Contains(fmt.Sprint(report.With(doctor.Fault)), "fence adopt") {
		t.Errorf("another fence: got %+v", report.With(doctor.Fault))
	}
	if table, err := tool(t, append([]string{"doctor"}, args...)...); err != nil || !strings.Contains(table, "faults: 0") {
		t.Errorf("got %v\n%s", err, table)
	}
}

// A replica does not start if the account's limits are too low, and the doctor says the
// same.
func TestAccountLimitsAreFoundAtStart(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ limit, want string }{
		{"MAX_USER_CONNECTIONS 14", "max_user_connections: the account may open 14 connections, but the service needs 44"},
		{"MAX_QUERIES_PER_HOUR 5000", "account limits: the account has MAX_QUERIES_PER_HOUR 5000"},
	} {
		args := []string{"--mysql-dsn=" + withAccount(t, newDSN(t), "WITH "+test.limit), "--strategy=conditional", "--mysql-pool=32", "--max-replicas=1"}
		err := serve(t, args...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the start: got %v, want %q", test.limit, err, test.want)
		}
		report, err := examine(t, args...)
		if faults := report.With(doctor.Fault); err == nil || len(faults) != 1 || !strings.Contains(faults[0].String(), test.want) {
			t.Errorf("%s: the doctor: got %+v", test.limit, faults)
		}
	}
}

func TestDoctorExaminesTheOtherServerWhenOneDoesNotAnswer(t *testing.T) {
	t.Parallel()
	report, err := examine(t, "--mysql-dsn=root:hidden@tcp(127.0.0.1:1)/shop", "--etcd-endpoints=http://127.0.0.1:1")
	faults := report.With(doctor.Fault)
	if err == nil || len(faults) != 2 || faults[0].Server != "MySQL at 127.0.0.1:1" || faults[1].Server != "etcd at http://127.0.0.1:1" ||
		strings.Contains(fmt.Sprint(faults), "hidden") {
		t.Errorf("got %v, %+v", err, faults)
	}
}

func TestCommandsReportAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	dsn, etcd := "--mysql-dsn="+newDSN(t), "--etcd-endpoints="+servers.EtcdEndpoints()[0]
	for _, args := range [][]string{
		{"audit"}, {"audit", "--json"}, {"locks", etcd}, {"fence", "show"}, {"fence", "adopt", etcd}, {"purge", "--before=720h"}, {"config", "list", etcd},
	} {
		out, err := tool(t, append(args, dsn)...)
		if err == nil || !strings.Contains(err.Error(), stock.ErrNoSchema.Error()) || !strings.Contains(err.Error(), "MySQL at ") || out != "" {
			t.Errorf("api %s: got %q, %v", strings.Join(args, " "), out, err)
		}
	}
}

// A warning is logged at start, with what to do.
func TestWarningsAreLoggedAtStart(t *testing.T) {
	t.Parallel()
	c := start(t, replicaConfig(withAccount(t, newDSN(t), "ACCOUNT UNLOCK"), "a", "conditional"))
	const lines = 100
	said := c.LogTail(lines)
	if n := strings.Count(said, "idle blockers: the account cannot see them"); n != 1 || !strings.Contains(said, "GRANT PROCESS") {
		t.Errorf("%d lines name the missing right; the replica logged:\n%s", n, said)
	}
}

// A replica does not start if etcd rejects writes or the connection: it would be ready
// but sell nothing.
func TestStartAndDoctorNameWhatIsWrongWithEtcd(t *testing.T) {
	t.Parallel()
	const quota = 1 << 20
	full := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1, EtcdQuota: quota})
	client, err := clientv3.New(clientv3.Config{Endpoints: full.EtcdEndpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	named := func(args []string, wants ...string) {
		t.Helper()
		args = append(args, "--mysql-dsn="+newDSN(t), "--etcd-endpoints="+full.EtcdEndpoints()[0])
		began := serve(t, append(args, "--start-timeout=5m")...)
		report, err := examine(t, args...)
		if began == nil || err == nil {
			t.Fatalf("%s: the start: %v; the doctor: %v", wants, began, err)
		}
		for who, said := range map[string]string{"the start": began.Error(), "the doctor": fmt.Sprint(report.With(doctor.Fault))} {
			for _, want := range wants {
				if !strings.Contains(said, want) || strings.Contains(said, "--start-timeout") {
					t.Errorf("%s: got %q, want %q", who, said, want)
				}
			}
		}
	}
	for i := 0; err == nil && i < 100; i++ {
		_, err = client.Put(t.Context(), fmt.Sprint("elsewhere/", i), strings.Repeat("x", quota/16))
	}
	named(nil, "NOSPACE", "etcd's upkeep")
	for _, do := range []func() error{
		func() error { _, err := client.UserAdd(t.Context(), "root", "secret"); return err },
		func() error { _, err := client.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := client.AuthEnable(t.Context()); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	named([]string{"--etcd-username=root", "--etcd-password=hidden"}, "correct --etcd-username and --etcd-password")
}
