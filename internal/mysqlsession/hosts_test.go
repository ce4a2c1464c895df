package mysqlsession_test

import (
	"database/sql"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestParseReadsSeveralHosts(t *testing.T) {
	for dsn, want := range map[string]string{
		"shop:p,w@tcp(a:1,b:2)/shop":                "a:1,b:2",
		"shop:p@(,)/w@tcp(a, b:3307 ,[::1]:3)/shop": "a:3306,b:3307,[::1]:3",
		"shop:pw@tcp(a:1)/shop?tls=true":            "a:1",
		"shop:pw@tcp(a:1,)/shop":                    "",
		"shop:pw@tcp(,b:2)/shop":                    "",
		"shop:pw@tcp(a:1,b:2/shop":                  "",
	} {
		cfg, err := mysqlsession.Parse(dsn)
		if want == "" {
			if err == nil {
				t.Errorf("%s: parsed as %s, want an error", dsn, cfg.Addr)
			}
			continue
		}
		if err != nil || cfg.Addr != want {
			t.Errorf("%s: got %v, %v; want %s", dsn, cfg, err, want)
			continue
		}
		again, err := mysqlsession.Parse(cfg.FormatDSN())
		if err != nil || again.Addr != want || again.Passwd != cfg.Passwd {
			t.Errorf("%s: after FormatDSN, it is parsed as %v, %v", dsn, again, err)
		}
	}
}

// pair is two servers, of which one accepts writes, and an account that read_only applies to.
type pair struct {
	admins [2]*sql.DB
	addrs  [2]string
	dsn    string // with the second server first
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	other := sandboxtest.Start(t, sandbox.Config{MySQL: true})
	databases++
	for i, server := range []*sandbox.MySQL{servers.MySQL, other.MySQL} {
		dsn, err := server.CreateDatabase(t.Context(), "pair")
		if err != nil {
			t.Fatal(err)
		}
		p.admins[i] = plain(t, dsn)
		for _, statement := range []string{
			"CREATE TABLE t (id INT NOT NULL PRIMARY KEY AUTO_INCREMENT, server INT NOT NULL DEFAULT " + []string{"0", "1"}[i] + ") ENGINE = InnoDB",
			"CREATE USER buyer@'127.0.0.1' IDENTIFIED BY 'pw'",
			"GRANT ALL ON pair.* TO buyer@'127.0.0.1'",
		} {
			exec(t, p.admins[i], statement)
		}
		cfg, err := mysql.ParseDSN(dsn)
		if err != nil {
			t.Fatal(err)
		}
		p.addrs[i] = cfg.Addr
	}
	t.Cleanup(func() {
		exec := func(statement string) { _, _ = p.admins[0].Exec(statement) } // the package's server stays
		exec("SET GLOBAL read_only = 0")
		exec("DROP USER buyer@'127.0.0.1'")
		exec("DROP DATABASE pair")
	})
	p.dsn = "buyer:pw@tcp(" + p.addrs[1] + "," + p.addrs[0] + ")/pair"
	return p
}

// primary makes server n the one that accepts writes.
func (p *pair) primary(t *testing.T, n int) {
	t.Helper()
	exec(t, p.admins[1-n], "SET GLOBAL read_only = 1")
	exec(t, p.admins[n], "SET GLOBAL read_only = 0")
}

// writesTo writes a row, and returns which server has it.
func writesTo(t *testing.T, db *sql.DB) int {
	t.Helper()
	exec(t, db, "INSERT INTO t () VALUES ()")
	return serverOf(t, db)
}

func serverOf(t *testing.T, db *sql.DB) (server int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT server FROM t LIMIT 1").Scan(&server); err != nil {
		t.Fatal(err)
	}
	return server
}

func TestPoolsFollowThePrimary(t *testing.T) {
	p := newPair(t)
	p.primary(t, 0)
	one, two := pool(t, p.dsn), pool(t, p.dsn)
	for _, db := range []*sql.DB{one, two} {
		if got := writesTo(t, db); got != 0 {
			t.Fatalf("the write went to server %d, which takes none", got)
		}
	}

	// A refused statement moves all pools to the new primary.
	p.primary(t, 1)
	_, err := one.ExecContext(t.Context(), "INSERT INTO t () VALUES ()")
	if !mysqlsession.RefusesWrites(err) {
		t.Errorf("a write to the old primary: got %v, want a refusal", err)
	}
	for _, db := range []*sql.DB{two, one} {
		if got := writesTo(t, db); got != 1 {
			t.Errorf("the write went to server %d, which takes none", got)
		}
	}

	// So does a ping. It also reaches connections in use.
	inUse, err := pool(t, p.dsn).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer inUse.Close()
	p.primary(t, 0)
	if err := two.PingContext(t.Context()); !errors.Is(err, mysqlsession.ErrNoWrites) || !strings.Contains(err.Error(), "read_only") {
		t.Errorf("ping of the old primary: got %v, want %v", err, mysqlsession.ErrNoWrites)
	}
	for _, db := range []*sql.DB{one, two} {
		if got := writesTo(t, db); got != 0 {
			t.Errorf("the write went to server %d, which takes none", got)
		}
	}
	if err := inUse.PingContext(t.Context()); err == nil {
		t.Error("a connection to the old primary is still usable")
	}

	// If no host accepts writes, the error has the reason for each.
	exec(t, p.admins[0], "SET GLOBAL read_only = 1")
	_ = one.PingContext(t.Context())
	err = one.PingContext(t.Context())
	if !mysqlsession.RefusesWrites(err) || !strings.Contains(err.Error(), p.addrs[0]) || !strings.Contains(err.Error(), p.addrs[1]) || strings.Contains(err.Error(), "\n") {
		t.Errorf("ping without a primary: got %v", err)
	}
}

// The only host may be a proxy whose server changes while its connections stay open.
func TestConnectionsToTheOnlyHostAreReplaced(t *testing.T) {
	p := newPair(t)
	p.primary(t, 0)
	db := pool(t, "buyer:pw@tcp("+p.addrs[0]+")/pair")
	id := func() (id int) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), "SELECT CONNECTION_ID()").Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := id()
	if again := id(); again != before {
		t.Fatal("the pool does not reuse its connection")
	}
	exec(t, p.admins[0], "SET GLOBAL read_only = 1")
	if _, err := db.ExecContext(t.Context(), "INSERT INTO t () VALUES ()"); !mysqlsession.RefusesWrites(err) {
		t.Errorf("got %v", err)
	}
	if id() == before {
		t.Error("the pool reuses a connection on which a write was refused")
	}
}

func TestASilentHostIsTriedOnce(t *testing.T) {
	p := newPair(t)
	p.primary(t, 0)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			defer conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close() })
	dsn := strings.Replace(p.dsn, p.addrs[1], listener.Addr().String(), 1)
	for range 3 {
		writesTo(t, pool(t, dsn))
	}
	if n := tries.Load(); n != 1 {
		t.Errorf("the silent host was tried %d times, want once", n)
	}
}
