package sandbox_test

import (
	"database/sql"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestAccountHasTheServicesRights(t *testing.T) {
	testAccount(t, sandboxtest.Start(t, sandbox.Config{MySQL: true}))
}

// testAccount checks that the service can use the account of CreateAccount, which cannot
// write to the first server while it is read-only.
func testAccount(t *testing.T, stack *sandbox.Stack) {
	t.Helper()
	ctx := t.Context()
	owner, err := stack.CreateDatabase(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	dsn, err := stack.CreateAccount(ctx, "shop", "service")
	if err != nil {
		t.Fatal(err)
	}
	migrate := exec.CommandContext(ctx, sandboxtest.Build(t, "api"), "migrate")
	migrate.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+owner)
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("api migrate: %v\n%s", err, out)
	}
	doctor := func() string {
		cmd := exec.CommandContext(ctx, sandboxtest.Build(t, "api"), "doctor", "--strategy=conditional", "--json")
		cmd.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+dsn)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"faults": 0`) {
			t.Errorf("api doctor: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := doctor(); strings.Contains(out, "GRANT SELECT") {
		t.Errorf("api doctor misses a right:\n%s", out)
	}

	_, server, _ := strings.Cut(stack.MySQL.DSN("shop"), "@")
	account, _, _ := strings.Cut(dsn, "@")
	db, admin := openDB(t, account+"@"+server), openDB(t, stack.MySQL.DSN(""))
	if stack.Cluster != nil && stack.MySQL.Product == sandbox.RealMySQL {
		const right = "SELECT ON performance_schema.replication_group_members"
		if _, err := admin.ExecContext(ctx, "REVOKE "+right+" FROM 'service'@'"+host(t, db)+"'"); err != nil {
			t.Fatal(err)
		}
		if out := doctor(); !strings.Contains(out, "GRANT "+right) {
			t.Errorf("api doctor does not miss %s:\n%s", right, out)
		}
	}
	const written, denied = "INSERT INTO leases VALUES ('written', '', 1, NOW(6))", 1142
	_, err = db.ExecContext(ctx, "CREATE TABLE written (n INT PRIMARY KEY)")
	if refused, ok := errors.AsType[*mysql.MySQLError](err); !ok || refused.Number != denied {
		t.Errorf("CREATE TABLE: got %v, want error %d", err, denied)
	}
	if _, err := db.ExecContext(ctx, written); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ExecContext(ctx, "SET GLOBAL read_only = ON"); err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(ctx, written)
	const readOnly = 1290
	if refused, ok := errors.AsType[*mysql.MySQLError](err); !ok || refused.Number != readOnly {
		t.Errorf("a write while the server is read-only: got %v, want error %d", err, readOnly)
	}
	if _, err := admin.ExecContext(ctx, "SET GLOBAL read_only = OFF"); err != nil {
		t.Fatal(err)
	}
}

// host is that of the account of db.
func host(t *testing.T, db *sql.DB) string {
	t.Helper()
	var account string
	if err := db.QueryRowContext(t.Context(), "SELECT CURRENT_USER()").Scan(&account); err != nil {
		t.Fatal(err)
	}
	_, host, _ := strings.Cut(account, "@")
	return host
}
