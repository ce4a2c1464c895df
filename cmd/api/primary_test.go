package main

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

// server is a MySQL whose read_only also applies to the service's account.
type server struct {
	t     *testing.T
	mysql *sandbox.MySQL
	admin *sql.DB
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{t: t, mysql: sandboxtest.Start(t, sandbox.Config{MySQL: true}).MySQL}
	s.admin = openPlain(t, s.mysql.DSN(""))
	s.exec("CREATE USER shop@'127.0.0.1' IDENTIFIED BY 'pw'")
	return s
}

func openPlain(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (s *server) exec(query string) {
	s.t.Helper()
	if _, err := s.admin.ExecContext(s.t.Context(), query); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
}

func (s *server) readOnly(on bool) {
	s.t.Helper()
	s.exec(fmt.Sprintf("SET GLOBAL read_only = %d", map[bool]int{true: 1, false: 0}[on]))
}

// newDSN creates a database and returns its DSN with the service's account.
func (s *server) newDSN(name string) string {
	s.t.Helper()
	s.exec("CREATE DATABASE " + name)
	s.exec("GRANT ALL ON " + name + ".* TO shop@'127.0.0.1'")
	return "shop:pw@tcp(" + s.addr() + ")/" + name
}

func (s *server) addr() string {
	cfg, err := mysql.ParseDSN(s.mysql.DSN(""))
	if err != nil {
		s.t.Fatal(err)
	}
	return cfg.Addr
}

func (c *client) pay(customer, id string) (int, string, error) {
	return c.call("POST", "/v1/orders/"+id+"/payment", customerToken(c.t, customer), "", "{}")
}

// slowly makes a replica wait much longer than a refusal takes.
func slowly(cfg sandbox.ReplicaConfig) sandbox.ReplicaConfig {
	cfg.Args = append(cfg.Args, "--request-timeout=2m")
	return cfg
}

func TestDatabaseBecomesReadOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	names := []string{"etcd", "conditional", "lock-table", "get-lock", "lock-row"}
	replicas := make([]*client, len(names))
	dsns := make([]string, len(names))
	paid := make([]string, len(names))
	for i, name := range names {
		dsns[i] = s.newDSN(fmt.Sprint("shop", i))
		replicas[i] = start(t, slowly(replicaConfig(dsns[i], name, name)))
		replicas[i].putSKU("lamp", 10)
		status, body, err := replicas[i].orderBody("lamp", "ann")
		if err != nil || status != http.StatusCreated {
			t.Fatalf("%s: %d %s, %v", name, status, body, err)
		}
		paid[i] = orderID(t, body)
	}
	s.readOnly(true)
	for i, c := range replicas {
		expect := func(what, method, path, token, body string, want int) string {
			t.Helper()
			status, text, err := c.call(method, path, token, "another key", body)
			if err != nil || status != want {
				t.Errorf("%s: %s: %d %s, %v; want %d", names[i], what, status, text, err, want)
			}
			return text
		}
		ben := customerToken(t, "ben")
		for _, refused := range []string{
			expect("an order", "POST", "/v1/orders", ben, `{"sku":"lamp","quantity":1}`, http.StatusServiceUnavailable),
			expect("a payment", "POST", "/v1/orders/"+paid[i]+"/payment", customerToken(t, "ann"), "{}", http.StatusServiceUnavailable),
			expect("a new SKU", "PUT", "/v1/admin/skus/sofa", adminToken, `{"name":"A","price_cents":1,"currency":"EUR","units":1}`, http.StatusServiceUnavailable),
		} {
			if !strings.Contains(refused, "unavailable") {
				t.Errorf("%s: the answer is %s", names[i], refused)
			}
		}
		c.awaitReady(http.StatusServiceUnavailable, "mysql", "does not accept writes") // a result may be 250 ms old
		expect("readiness for reading", "GET", "/readyz?for=reading", "", "", http.StatusOK)
		expect("reading", "GET", "/v1/orders/"+paid[i], customerToken(t, "ann"), "", http.StatusOK)
	}
	if out, err := tool(t, "doctor", "--json", "--strategy=conditional", "--mysql-dsn="+dsns[1]); err == nil || !strings.Contains(out, "SET GLOBAL read_only = OFF") {
		t.Errorf("doctor: %v\n%s", err, out)
	}
	mustTool(t, "audit", "--mysql-dsn="+dsns[1])
	s.readOnly(false)
	for i, c := range replicas {
		c.awaitReady(http.StatusOK, "mysql", "ok")
		awaitOrder(c, "lamp", "cid")
		if status, text, err := c.pay("ann", paid[i]); err != nil || status != http.StatusOK {
			t.Errorf("%s: a payment: %d %s, %v", names[i], status, text, err)
		}
		if b := auditOK(t, dsns[i]); b.Available != 8 {
			t.Errorf("%s: %d units are left, want 8", names[i], b.Available)
		}
	}
}

// The server accepts writes, but not those of the account. MariaDB has no read-only
// schemas, so the test revokes rights.
func TestDatabaseRefusesOurWrites(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	refuse := []string{"ALTER DATABASE %s READ ONLY = 1"}
	allow, advice := "ALTER DATABASE %s READ ONLY = 0", "READ ONLY = 0"
	if s.mysql.Product == sandbox.MariaDB {
		refuse = []string{"REVOKE UPDATE, INSERT ON %s.* FROM shop@'127.0.0.1'", "KILL USER shop@'127.0.0.1' /* %s */"}
		allow, advice = "GRANT ALL ON %s.* TO shop@'127.0.0.1'", "GRANT SELECT, INSERT"
	}
	for _, name := range []string{"etcd", "conditional"} {
		dsn := s.newDSN(name)
		c := start(t, slowly(replicaConfig(dsn, name, name)))
		c.putSKU("lamp", 10)
		_, body, err := c.orderBody("lamp", "ann")
		if err != nil {
			t.Fatal(err)
		}
		for _, statement := range refuse {
			s.exec(fmt.Sprintf(statement, name))
		}
		if s.mysql.Product != sandbox.MariaDB {
			if status, text, err := c.orderBody("lamp", "ben"); err != nil || status != http.StatusServiceUnavailable {
				t.Errorf("%s: an order: %d %s, %v; want 503", name, status, text, err)
			}
			if status, text, err := c.pay("ann", orderID(t, body)); err != nil || status != http.StatusServiceUnavailable {
				t.Errorf("%s: a payment: %d %s, %v; want 503", name, status, text, err)
			}
		}
		c.awaitReady(http.StatusServiceUnavailable, "mysql", "does not accept writes")
		if out, err := tool(t, "doctor", "--strategy=conditional", "--mysql-dsn="+dsn); err == nil || !strings.Contains(out, advice) {
			t.Errorf("doctor: %v\n%s", err, out)
		}
		s.exec(fmt.Sprintf(allow, name))
		c.awaitReady(http.StatusOK, "mysql", "ok")
		awaitOrder(c, "lamp", "ben")
	}
}

// awaitOrder retries an order with one key until it succeeds.
func awaitOrder(c *client, sku, customer string) (id string) {
	c.t.Helper()
	for until := time.Now().Add(time.Minute); ; {
		status, body, err := c.orderBody(sku, customer)
		if err == nil && status == http.StatusCreated {
			return orderID(c.t, body)
		}
		if err != nil || status != http.StatusServiceUnavailable || time.Now().After(until) {
			c.t.Fatalf("%s at %s: %d %s, %v", customer, c.Name, status, body, err)
		}
	}
}

// An operator makes another server the primary while the old one keeps running. The
// replicas then use only the new one.
func TestReplicaFollowsThePrimary(t *testing.T) {
	t.Parallel()
	one, two := newServer(t), newServer(t)
	for _, s := range []*server{one, two} {
		mustTool(t, "migrate", "--mysql-dsn="+s.newDSN("shop"))
	}
	two.readOnly(true)
	dsn := "shop:pw@tcp(" + one.addr() + "," + two.addr() + ")/shop"
	for _, name := range []string{"etcd", "lock-table"} {
		t.Run(name, func(t *testing.T) {
			c := start(t, slowly(replicaConfig(dsn, name, name)))
			c.putSKU("lamp", 10)
			ann := awaitOrder(c, "lamp", "ann")

			one.readOnly(true)
			copyTables(t, one, two)
			two.readOnly(false)
			awaitOrder(c, "lamp", "ben")
			if status, text, err := c.pay("ann", ann); err != nil || status != http.StatusOK {
				t.Errorf("a payment: %d %s, %v", status, text, err)
			}
			c.awaitReady(http.StatusOK, "mysql", "ok")
			for s, want := range map[*server]string{one: "1 reserved", two: "1 paid, 1 reserved"} {
				if got := s.orders(); got != want {
					t.Errorf("server %s has %s, want %s", s.addr(), got, want)
				}
			}
			replicaLockOf(t, openDB(t, two.mysql.DSN("shop")))

			// A paused replica still holds its replica lock on the old primary.
			sandboxtest.Pause(t, c.Process)
			two.readOnly(true)
			one.readOnly(false)
			adopt := []string{"fence", "adopt", "--mysql-dsn=" + dsn, "--strategy=conditional"}
			if _, err := tool(t, adopt...); !errors.Is(err, stock.ErrInUse) || !strings.Contains(err.Error(), two.addr()) {
				t.Errorf("adopt: got %v, want %v at %s", err, stock.ErrInUse, two.addr())
			}
			sandboxtest.Resume(t, c.Process)
			c.awaitReady(http.StatusOK, "mysql", "ok")
			if err := c.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			for _, table := range []string{"orders", "stock", "guard"} {
				one.exec("DELETE FROM shop." + table)
			}
		})
	}
}

// orders returns the number of orders of each status.
func (s *server) orders() (counts string) {
	s.t.Helper()
	err := s.admin.QueryRowContext(s.t.Context(), `SELECT GROUP_CONCAT(n, ' ', status ORDER BY CONCAT(status) SEPARATOR ', ')
		FROM (SELECT status, COUNT(*) AS n FROM shop.orders GROUP BY status) counted`).Scan(&counts)
	if err != nil {
		s.t.Fatal(err)
	}
	return counts
}

// copyTables copies the tables of one server to another.
func copyTables(t *testing.T, from, to *server) {
	t.Helper()
	for _, table := range []string{"guard", "stock", "orders", "leases", "stock_lock"} {
		var exists int
		if err := from.admin.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'shop' AND table_name = ?", table).
			Scan(&exists); err != nil {
			t.Fatal(err)
		}
		if exists == 0 {
			continue
		}
		var name, schema string
		if err := from.admin.QueryRowContext(t.Context(), "SHOW CREATE TABLE shop."+table).Scan(&name, &schema); err != nil {
			t.Fatal(err)
		}
		to.exec("DROP TABLE IF EXISTS shop." + table)
		to.exec(strings.Replace(schema, "CREATE TABLE ", "CREATE TABLE shop.", 1))
		copyRows(t, from.admin, to.admin, "shop."+table)
	}
}

func copyRows(t *testing.T, from, to *sql.DB, table string) {
	t.Helper()
	rows, err := from.QueryContext(t.Context(), "SELECT * FROM "+table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	insert := "INSERT INTO " + table + " VALUES (?" + strings.Repeat(", ?", len(columns)-1) + ")"
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		if _, err := to.ExecContext(t.Context(), insert, values...); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}
