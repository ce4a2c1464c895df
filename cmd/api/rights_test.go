package main

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// The service lives its whole life with the rights that docs/databases.md lists: it waits
// for its tables, which another account creates, sells, and ends what blocks it. Without
// any one of them, it does not start or says what it misses.
func TestServiceNeedsEachRightAndNoMore(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	owner, err := own.CreateDatabase(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	dsn, err := own.CreateAccount(t.Context(), "shop", "service")
	if err != nil {
		t.Fatal(err)
	}
	admin := openPlain(t, owner)
	where, etcd := "--mysql-dsn="+dsn, "--etcd-endpoints="+strings.Join(servers.EtcdEndpoints(), ",")

	const missing = "the schema lacks 00001_tables.sql, and this account may not create tables: run `api migrate`"
	refused(t, []string{"was not ready within --start-timeout T", missing}, where, etcd)
	if out, err := tool(t, "doctor", where, etcd); err == nil || !strings.Contains(strings.Join(strings.Fields(out), " "), "00001_tables.sql") {
		t.Errorf("doctor without tables: %v\n%s", err, out)
	}
	if out, err := tool(t, "migrate", where); err == nil || !strings.Contains(err.Error(), "CREATE command denied") {
		t.Errorf("migrate with the service's account: %v\n%s", err, out)
	}
	migrated := make(chan error, 1)
	go func() { migrated <- migrateOnceAwaited(t.Context(), admin, owner) }()
	c := start(t, replicaConfig(dsn, "a", strategy.Default))
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}

	c.putSKU("lamp", 10)
	ids := map[string]string{}
	for _, customer := range []string{"ann", "ben", "cid"} {
		ids[customer] = awaitOrder(c, "lamp", customer)
	}
	for customer, end := range map[string]string{"ann": "payment", "ben": "cancellation"} {
		if status, text, err := c.call("POST", "/v1/orders/"+ids[customer]+"/"+end, customerToken(t, customer), "", "{}"); err != nil || status != http.StatusOK {
			t.Errorf("%s: %d %s, %v", end, status, text, err)
		}
	}
	execAll(t, admin, "UPDATE orders SET expires_at = NOW(6) - INTERVAL 1 SECOND WHERE customer = 'cid'")
	c.await("the expiry of an order", func(families map[string]*family) bool { return total(families["flashsale_orders_expired_total"]) >= 1 })
	if status, text, err := c.call("POST", "/v1/admin/skus/lamp/restocks", adminToken, "more", `{"units":5}`); err != nil || status != http.StatusCreated {
		t.Errorf("restock: %d %s, %v", status, text, err)
	}
	forgotten, err := openPlain(t, dsn).BeginTx(t.Context(), nil)
	if err == nil {
		_, err = forgotten.ExecContext(t.Context(), "SELECT * FROM stock FOR UPDATE")
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitOrder(c, "lamp", "dan")
	if err := forgotten.Commit(); err == nil {
		t.Error("an idle transaction of the service's account held a SKU's row, and was not ended")
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	purge := []string{"purge", "--before=0s", "--force"}
	if out, err := tool(t, append(purge, where)...); err == nil || !strings.Contains(err.Error(), "DELETE command denied") || !strings.Contains(err.Error(), "`api migrate`") {
		t.Errorf("purge with the service's account: %v\n%s", err, out)
	}
	if out := mustTool(t, append(purge, "--mysql-dsn="+owner)...); !strings.Contains(out, "3 orders") {
		t.Errorf("purge with the account of api migrate: %s", out)
	}
	for command, want := range map[string]string{
		"purge --before=0s --force --dry-run": "0 orders", "audit": "every invariant holds", "doctor ETCD": "faults: 0", "fence adopt ETCD": "tokens of etcd cluster",
		"locks ETCD": "", "config list ETCD": "", "fence show": "strategy etcd",
	} {
		if out := mustTool(t, append(strings.Fields(strings.Replace(command, "ETCD", etcd, 1)), where)...); !strings.Contains(out, want) {
			t.Errorf("api %s: got %s, want %s", command, out, want)
		}
	}
	if b := auditOK(t, dsn); b.Available != 13 {
		t.Errorf("%d units are left, want 13", b.Available)
	}

	const account = "'service'@'127.0.0.1'"
	for right, wants := range map[string][2]string{
		"SELECT ON shop.*": {"audit", "SELECT command denied"},
		"INSERT ON shop.*": {"doctor", "the account lacks INSERT on archived_orders"},
		"UPDATE ON shop.*": {"doctor", "UPDATE on orders"},
		"PROCESS ON *.*":   {"doctor", "GRANT PROCESS ON *.*"},
		"SELECT ON performance_schema.data_lock_waits": {"doctor", "GRANT SELECT ON performance_schema.data_lock_waits"},
	} {
		if own.MySQL.Product == sandbox.MariaDB && strings.Contains(right, "performance_schema") {
			continue // there, PROCESS suffices
		}
		execAll(t, admin, "REVOKE "+right+" FROM "+account)
		args := []string{wants[0], where, "--json"}
		if wants[0] == "doctor" {
			args = append(args, etcd)
		}
		out, err := tool(t, args...)
		if said := fmt.Sprint(err, out); !strings.Contains(said, wants[1]) {
			t.Errorf("without %s: api %s says %s, want %s", right, wants[0], said, wants[1])
		}
		if strings.Contains(right, "shop") {
			if err := serve(t, where, etcd); err == nil || !strings.Contains(err.Error(), right[:6]) {
				t.Errorf("without %s, the start: %v", right, err)
			}
		}
		execAll(t, admin, "GRANT "+right+" TO "+account)
	}
}

// migrateOnceAwaited migrates when the account of a replica is connected.
func migrateOnceAwaited(ctx context.Context, admin *sql.DB, owner string) error {
	for connected := 0; connected == 0; time.Sleep(10 * time.Millisecond) {
		if err := admin.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE user = 'service'").Scan(&connected); err != nil {
			return err
		}
	}
	return run(ctx, []string{"migrate", "--mysql-dsn=" + owner}, new(strings.Builder), new(strings.Builder))
}
