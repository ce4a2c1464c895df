package sandbox_test

import (
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
	doctor := exec.CommandContext(ctx, sandboxtest.Build(t, "api"), "doctor", "--strategy=conditional")
	doctor.Env = append(os.Environ(), "FLASHSALE_MYSQL_DSN="+dsn)
	out, err := doctor.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "faults: 0") || strings.Contains(string(out), "GRANT SELECT") {
		t.Errorf("api doctor: %v\n%s", err, out)
	}

	_, server, _ := strings.Cut(stack.MySQL.DSN("shop"), "@")
	account, _, _ := strings.Cut(dsn, "@")
	db, admin := openDB(t, account+"@"+server), openDB(t, stack.MySQL.DSN(""))
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
