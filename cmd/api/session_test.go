package main

import (
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// ownMySQL starts a server whose defaults the test may change, and creates a database.
// It returns the DSN of an account with rights on that database only.
func ownMySQL(t *testing.T, database string) (admin *sql.DB, dsn string) {
	t.Helper()
	own := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	dsn, err := own.MySQL.CreateDatabase(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	if admin, err = sql.Open("mysql", dsn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = admin.Close() })
	admin.SetMaxOpenConns(1) // so that all statements share a session
	execAll(t, admin, "CREATE USER shop@'127.0.0.1' IDENTIFIED BY 'pw'", "GRANT ALL ON "+database+".* TO shop@'127.0.0.1'")
	cfg, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.User, cfg.Passwd = "shop", "pw"
	return admin, cfg.FormatDSN()
}

func execAll(t *testing.T, db *sql.DB, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// With any defaults of the server, the database has exactly the orders and payments that
// a replica acknowledged before it was killed.
func TestAcknowledgedOrdersSurviveWithAnyServerDefaults(t *testing.T) {
	t.Parallel()
	admin, dsn := ownMySQL(t, "defaults")
	execAll(t, admin, "SET GLOBAL autocommit = 0, completion_type = CHAIN, sql_safe_updates = 1, sql_select_limit = 1, max_join_size = 1, "+
		"sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT'", "SET GLOBAL init_connect = 'SET NAMES gbk'")
	c := start(t, replicaConfig(dsn, "a", strategy.Default))
	const sku = `{"name":"Lamp 🔦","price_cents":1,"currency":"EUR","units":5}`
	if status, text, err := c.call("PUT", "/v1/admin/skus/lamp", adminToken, "", sku); err != nil || status != http.StatusCreated || !strings.Contains(text, "🔦") {
		t.Fatalf("create SKU: %d %s %v", status, text, err)
	}
	ids := map[string]string{}
	for _, customer := range []string{"victim", "mallory"} {
		status, text, err := c.orderBody("lamp", customer)
		if err != nil || status != http.StatusCreated {
			t.Fatalf("order: %d %s %v", status, text, err)
		}
		ids[customer] = orderID(t, text)
	}
	const reference = "\u4f60' WHERE customer = 0x76696374696d -- "
	status, text, err := c.call("POST", "/v1/orders/"+ids["mallory"]+"/payment", customerToken(t, "mallory"), "", fmt.Sprintf(`{"reference":%q}`, reference))
	if err != nil || status != http.StatusOK {
		t.Errorf("pay: %d %s %v", status, text, err)
	}
	c.Kill()
	for customer, want := range map[string]string{"victim": "reserved ", "mallory": "paid " + reference} {
		var got string
		err := admin.QueryRowContext(t.Context(), "SELECT CONCAT(status, ' ', COALESCE(payment_reference, '')) FROM orders WHERE customer = ?", customer).Scan(&got)
		if err != nil || got != want {
			t.Errorf("the order of %s is %q, %v; want %q", customer, got, err, want)
		}
	}
}

func TestServerThatAllowsOnlySmallPacketsIsRefused(t *testing.T) {
	t.Parallel()
	admin, dsn := ownMySQL(t, "packets")
	execAll(t, admin, "SET GLOBAL max_allowed_packet = 1048576")
	refused(t, []string{"max_allowed_packet: it is 1048576", "4194304"}, "--mysql-dsn="+dsn, "--strategy=conditional")
}
