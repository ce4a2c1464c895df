package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

const (
	secret     = "a secret of the tests, which is long enough"
	adminToken = "an admin token of the tests, which is long enough"
	lockTTL    = 2 * time.Second
	// timeout is the replicas' request time-out. A request that fails takes as long, and
	// one that succeeds may on a busy machine.
	timeout = 10 * time.Second
	// answerWithin bounds the wait for any answer.
	answerWithin = timeout + 30*time.Second
)

var databases atomic.Int32

func newDSN(t *testing.T) string {
	t.Helper()
	dsn, err := servers.MySQL.CreateDatabase(t.Context(), fmt.Sprintf("main%d", databases.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

func openDB(t *testing.T, dsn string) *stock.DB {
	t.Helper()
	db, err := stock.Open(dsn, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// refused serves and checks that the program fails with an error that contains all of
// want, in which T is the --start-timeout. It tries a short time-out first. On a busy
// machine that may end before the program reaches the tested step: then it tries longer
// ones.
func refused(t *testing.T, want []string, args ...string) {
	t.Helper()
	for _, timeout := range []string{"1s", "5s", "20s"} {
		err := serve(t, append(slices.Clone(args), "--start-timeout="+timeout)...)
		if err == nil {
			t.Fatal("the program started")
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hidden") {
			t.Fatalf("the error has several lines or a secret: %q", err)
		}
		lacks := func(want string) bool {
			return !strings.Contains(err.Error(), strings.ReplaceAll(want, "--start-timeout T", "--start-timeout "+timeout))
		}
		at := slices.IndexFunc(want, lacks)
		if at < 0 {
			return
		}
		if timeout == "20s" {
			t.Errorf("got %q, which lacks %q", err, want[at])
		}
	}
}

// serve runs the program in this process and returns its error.
func serve(t *testing.T, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return run(ctx, append([]string{"serve", "--addr=127.0.0.1:0", "--log-level=error",
		"--admin-token=" + adminToken, "--jwt-secret=" + secret}, args...), io.Discard, io.Discard)
}

func TestBadConfigurationIsOneClearError(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	dsn, etcd := "--mysql-dsn="+newDSN(t), "--etcd-endpoints="+strings.Join(servers.EtcdEndpoints(), ",")
	nobody := "--mysql-dsn=root:hidden@tcp(127.0.0.1:1)/shop"
	tests := []struct {
		name string
		args []string
		want []string
	}{
		{"no DSN", []string{etcd}, []string{"--mysql-dsn"}},
		{"malformed DSN", []string{"--mysql-dsn=mysql://root@host/shop", etcd}, []string{"--mysql-dsn", "malformed DSN", "user:password@tcp(host:port)/database"}},
		{"DSN of no database", []string{"--mysql-dsn=root@tcp(127.0.0.1:1)/", etcd}, []string{"--mysql-dsn", "names no database"}},
		{"DSN of another charset", []string{"--mysql-dsn=root:hidden@tcp(127.0.0.1:1)/shop?charset=gbk", etcd}, []string{"--mysql-dsn: charset=gbk is not supported; use utf8mb4"}},
		{"DSN that turns autocommit off", []string{"--mysql-dsn=root:hidden@tcp(127.0.0.1:1)/shop?autocommit=0", etcd}, []string{"--mysql-dsn: autocommit is not supported"}},
		{"DSN of a strict driver", []string{"--mysql-dsn=root:hidden@tcp(127.0.0.1:1)/shop?strict=true", etcd}, []string{"--mysql-dsn: strict is not supported"}},
		{"unknown strategy", []string{dsn, etcd, "--strategy=luck"}, []string{"--strategy", `"luck"`, "conditional", "etcd"}},
		{"unknown fence", []string{dsn, etcd, "--fence=high"}, []string{"--fence", `"high"`, "off, write or claim"}},
		{"no etcd", []string{dsn}, []string{"--etcd-endpoints", "missing"}},
		{"etcd endpoint of no host", []string{dsn, "--etcd-endpoints=http://"}, []string{"--etcd-endpoints"}},
		{"no redis", []string{dsn, "--strategy=redis"}, []string{"--redis-addrs is missing", "strategy redis"}},
		{"two redis servers for one", []string{dsn, "--strategy=redis", "--redis-addrs=a:1,b:2"}, []string{"--redis-addrs", "2 servers"}},
		{"two redis servers for redlock", []string{dsn, "--strategy=redlock", "--redis-addrs=a:1,b:2"}, []string{"--redis-addrs", "odd number"}},
		{"no memcached", []string{dsn, "--strategy=memcached"}, []string{"--memcached-addr is missing"}},
		{"memcached of no port", []string{dsn, "--strategy=memcached", "--memcached-addr=here"}, []string{"--memcached-addr", `"here"`, "host:port"}},
		{"no zookeeper", []string{dsn, "--strategy=zookeeper"}, []string{"--zookeeper-servers is missing"}},
		{"no kubernetes", []string{dsn, "--strategy=kubernetes"}, []string{"--kubeconfig or --kube-server is missing"}},
		{"two ways to kubernetes", []string{dsn, "--strategy=kubernetes-stocklock", "--kubeconfig=x", "--kube-server=https://h"}, []string{"--kubeconfig", "--kube-server"}},
		{"redis unreachable", []string{dsn, "--strategy=redis", "--redis-addrs=redis://:hidden@127.0.0.1:1"},
			[]string{"redis at redis://:xxxxx@127.0.0.1:1", "--start-timeout T", "refused"}},
		{"redlock unreachable", []string{dsn, "--strategy=redlock", "--redis-addrs=127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"},
			[]string{"redlock at 127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3", "--start-timeout T", "refused"}},
		{"memcached unreachable", []string{dsn, "--strategy=memcached", "--memcached-addr=127.0.0.1:1"},
			[]string{"memcached at 127.0.0.1:1", "--start-timeout T", "refused"}},
		{"zookeeper unreachable", []string{dsn, "--strategy=zookeeper", "--zookeeper-servers=127.0.0.1:1"},
			[]string{"zookeeper at 127.0.0.1:1", "--start-timeout T"}},
		{"kubernetes unreachable", []string{dsn, "--strategy=kubernetes", "--kube-server=https://127.0.0.1:1"},
			[]string{"kubernetes at https://127.0.0.1:1", "--start-timeout T", "refused"}},
		{"unknown flag", []string{dsn, etcd, "--stratgy=none"}, []string{"--stratgy"}},
		{"negative duration", []string{dsn, etcd, "--lock-ttl=-1s"}, []string{"--lock-ttl", "-1s"}},
		{"no duration", []string{dsn, etcd, "--lock-ttl=5"}, []string{"--lock-ttl"}},
		{"pool of one", []string{dsn, etcd, "--mysql-pool=1"}, []string{"--mysql-pool"}},
		{"more connections than the server has", []string{dsn, etcd, "--max-replicas=100", "--mysql-pool=50"},
			[]string{"--max-replicas 100", "--mysql-pool 50", "5800", "max_connections"}},
		{"certificate without key", []string{dsn, etcd, "--tls-cert=x"}, []string{"--tls-cert", "--tls-key"}},
		{"key set that is not there", []string{dsn, etcd, "--jwt-secret=", "--jwks=/nowhere/jwks.json", "--jwt-audience=shop"}, []string{"--jwks", "/nowhere/jwks.json"}},
		{"key set beside a secret", []string{dsn, etcd, "--jwks=x"}, []string{"--jwks", "--jwt-secret", "mutually exclusive"}},
		{"rate limit of no form", []string{dsn, etcd, "--rate-limit-customer=100"}, []string{"--rate-limit-customer", "100/10s"}},
		{"proxy that is no network", []string{dsn, etcd, "--trusted-proxies=proxy"}, []string{"--trusted-proxies", `"proxy"`}},
		{"everybody as a proxy", []string{dsn, etcd, "--trusted-proxies=10.0.0.0/8,::/0"}, []string{"--trusted-proxies", "::/0", "trusts every address"}},
		{"streams of one address", []string{dsn, etcd, "--max-streams-address=-1"}, []string{"--max-streams-address is -1"}},
		{"no connections", []string{dsn, etcd, "--max-connections=0"}, []string{"--max-connections"}},
		{"connections of one address", []string{dsn, etcd, "--max-connections-address=-1"}, []string{"--max-connections-address is -1"}},
		{"IPv6 networks that are too large", []string{dsn, etcd, "--ipv6-prefix=40"}, []string{"--ipv6-prefix is 40, must be from 48 to 64"}},
		{"short secret", []string{dsn, etcd, "--jwt-secret=short"}, []string{"--jwt-secret", "5 bytes", "at least 32"}},
		{"port for profiles taken", []string{dsn, "--strategy=conditional", "--pprof-addr=" + taken.Addr().String()}, []string{"--pprof-addr", "address already in use"}},
		{"no SKUs less than none", []string{dsn, etcd, "--metrics-skus=-1"}, []string{"--metrics-skus", "-1"}},
		{"more traces than requests", []string{dsn, etcd, "--trace-ratio=1.5"}, []string{"--trace-ratio", "1.5", "from 0 to 1"}},
		{"collector of no URL", []string{dsn, etcd, "--otlp-endpoint=127.0.0.1:4318"}, []string{"--otlp-endpoint", "127.0.0.1:4318", "http://host:4318"}},
		{"steps into no folder", []string{dsn, etcd, "--trace-steps=/nowhere/steps"}, []string{"--trace-steps", "/nowhere/steps"}},
		{"port taken", []string{dsn, etcd, "--addr=" + taken.Addr().String()}, []string{"--addr", "address already in use"}},
		{"internal port taken", []string{dsn, etcd, "--internal-addr=" + taken.Addr().String()}, []string{"--internal-addr", "address already in use"}},
		{"internal address of no port", []string{dsn, etcd, "--internal-addr=8081"}, []string{"--internal-addr", "8081", "missing port"}},
		{"MySQL unreachable", []string{nobody, etcd}, []string{"MySQL at 127.0.0.1:1", "--start-timeout T", "refused"}},
		{"etcd unreachable", []string{dsn, "--etcd-endpoints=http://127.0.0.1:1"},
			[]string{"etcd at http://127.0.0.1:1", "--start-timeout T"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			refused(t, test.want, test.args...)
		})
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	db := openDB(t, dsn)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.SQL.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"); err != nil {
		t.Fatal(err)
	}
	err := serve(t, "--mysql-dsn="+dsn, "--strategy=conditional")
	if err == nil || !strings.Contains(err.Error(), "schema is newer than this program") || !strings.Contains(err.Error(), "999") {
		t.Errorf("got %v", err)
	}
}

func TestEmptiedEtcdIsRefused(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	db := openDB(t, dsn)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Create(t.Context(), stock.Stock{SKU: "lamp", Name: "n", Currency: "EUR", Units: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.SQL.ExecContext(t.Context(), "UPDATE stock SET fence = 1000000000000"); err != nil {
		t.Fatal(err)
	}
	err := serve(t, "--mysql-dsn="+dsn, "--etcd-endpoints="+servers.EtcdEndpoints()[0])
	if err == nil || !strings.Contains(err.Error(), "token 1000000000000 was admitted") || !strings.Contains(err.Error(), "fence adopt") {
		t.Errorf("got %v", err)
	}
}

func TestReplicaOfAnotherStrategyIsRefused(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	start(t, replicaConfig(dsn, "a", "conditional"))
	err := serve(t, "--mysql-dsn="+dsn, "--strategy=row-lock")
	if err == nil || !strings.Contains(err.Error(), `strategy "conditional"`) || !strings.Contains(err.Error(), "fence adopt") {
		t.Errorf("got %v", err)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	call := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), args, &out, &out)
		return out.String(), err
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--help"}, "strategies"},
		{[]string{"version"}, ", commit "},
		{[]string{"strategies"}, "etcd-textbook"},
		{[]string{"strategies", "--json"}, `"name": "conditional"`},
		{[]string{"migrate", "--mysql-dsn=" + dsn}, "up to date"},
		{[]string{"fence", "show", "--mysql-dsn=" + dsn}, "no replica has used this database yet"},
		{[]string{"fence", "adopt", "--mysql-dsn=" + dsn, "--etcd-endpoints=" + servers.EtcdEndpoints()[0]}, "strategy etcd, fence claim, tokens of etcd cluster"},
		{[]string{"fence", "show", "--mysql-dsn=" + dsn}, ", admitted up to 0"},
		{[]string{"locks", "--json", "--mysql-dsn=" + dsn, "--etcd-endpoints=" + servers.EtcdEndpoints()[0]}, `"locks": []`},
		{[]string{"audit", "--mysql-dsn=" + dsn}, "every invariant holds"},
		{[]string{"audit", "--json", "--mysql-dsn=" + dsn}, `"ok": true`},
	} {
		got, err := call(test.args...)
		if err != nil || !strings.Contains(got, test.want) {
			t.Errorf("api %s: got %q, %v; want %q", strings.Join(test.args, " "), got, err, test.want)
		}
	}
	db := openDB(t, dsn)
	if _, err := db.Create(t.Context(), stock.Stock{SKU: "lamp", Name: "n", Currency: "EUR", Units: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.SQL.ExecContext(t.Context(), "UPDATE stock SET available = 2"); err != nil {
		t.Fatal(err)
	}
	got, err := call("audit", "--mysql-dsn="+dsn)
	if err == nil || !strings.Contains(got, "VIOLATED conservation: SKU lamp") {
		t.Errorf("audit of a broken database: got %q, %v", got, err)
	}
}

// The wait for a MySQL that hangs after a successful ping is bounded.
func TestStartIsBoundedWhenMySQLHangs(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	db := openDB(t, dsn)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := db.SQL.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "LOCK TABLES stock WRITE"); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"did not answer within --start-timeout T: try to write stock"}, "--mysql-dsn="+dsn, "--strategy=conditional")
	if _, err := conn.ExecContext(t.Context(), "UNLOCK TABLES"); err != nil {
		t.Fatal(err)
	}
}
