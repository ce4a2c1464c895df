package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) {
	sandboxtest.Main(m, sandbox.Config{MySQL: true, EtcdNodes: 1}, &servers)
}

const (
	secret     = "a secret of the tests"
	adminToken = "an admin token of the tests"
	lockTTL    = 2 * time.Second
	// timeout is the replicas' request time-out in these tests.
	timeout = 3 * time.Second
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
		{"unknown strategy", []string{dsn, etcd, "--strategy=luck"}, []string{"--strategy", `"luck"`, "conditional", "etcd"}},
		{"unknown fence", []string{dsn, etcd, "--fence=high"}, []string{"--fence", `"high"`, "off, write or claim"}},
		{"no etcd", []string{dsn}, []string{"--etcd-endpoints", "missing"}},
		{"etcd endpoint of no host", []string{dsn, "--etcd-endpoints=http://"}, []string{"--etcd-endpoints"}},
		{"unknown flag", []string{dsn, etcd, "--stratgy=none"}, []string{"--stratgy"}},
		{"negative duration", []string{dsn, etcd, "--lock-ttl=-1s"}, []string{"--lock-ttl", "-1s"}},
		{"no duration", []string{dsn, etcd, "--lock-ttl=5"}, []string{"--lock-ttl"}},
		{"pool of one", []string{dsn, etcd, "--mysql-pool=1"}, []string{"--mysql-pool"}},
		{"more connections than the server has", []string{dsn, etcd, "--max-replicas=100", "--mysql-pool=50"},
			[]string{"--max-replicas 100", "--mysql-pool 50", "5000", "max_connections"}},
		{"certificate without key", []string{dsn, etcd, "--tls-cert=x"}, []string{"--tls-cert", "--tls-key"}},
		{"port taken", []string{dsn, etcd, "--addr=" + taken.Addr().String()}, []string{"--addr", "address already in use"}},
		{"MySQL unreachable", []string{nobody, etcd, "--start-timeout=1s"}, []string{"MySQL at 127.0.0.1:1", "--start-timeout 1s", "refused"}},
		{"etcd unreachable", []string{dsn, "--etcd-endpoints=http://127.0.0.1:1", "--start-timeout=1s"},
			[]string{"etcd at http://127.0.0.1:1", "--start-timeout 1s"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := serve(t, test.args...)
			if err == nil {
				t.Fatal("the program started")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, which lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error has several lines, or a secret: %q", err)
			}
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

func TestReplicaOfAnotherStrategyIsRefused(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	start(t, replicaConfig(dsn, "a", "conditional"))
	err := serve(t, "--mysql-dsn="+dsn, "--strategy=row-lock")
	if err == nil || !strings.Contains(err.Error(), `strategy "conditional"`) || !strings.Contains(err.Error(), "fence adopt") {
		t.Errorf("got %v", err)
	}
}

func TestTools(t *testing.T) {
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
		{[]string{"version"}, "flashsale"},
		{[]string{"strategies"}, "etcd-textbook"},
		{[]string{"strategies", "--json"}, `"name": "conditional"`},
		{[]string{"migrate", "--mysql-dsn=" + dsn}, "up to date"},
		{[]string{"fence", "show", "--mysql-dsn=" + dsn}, "no replica has used this database yet"},
		{[]string{"fence", "adopt", "--mysql-dsn=" + dsn, "--etcd-endpoints=" + servers.EtcdEndpoints()[0]}, "strategy etcd, fence claim, tokens of etcd cluster"},
		{[]string{"fence", "show", "--mysql-dsn=" + dsn}, "strategy etcd, fence claim, tokens of etcd cluster"},
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

func replicaConfig(dsn, name, strategy string) sandbox.ReplicaConfig {
	return sandbox.ReplicaConfig{
		Replica: name, MySQLDSN: dsn, EtcdEndpoints: servers.EtcdEndpoints(), Strategy: strategy, Fence: "claim",
		AdminToken: adminToken, JWTSecret: secret,
		Args: []string{"--lock-ttl=" + lockTTL.String(), "--request-timeout=" + timeout.String()},
	}
}

type client struct {
	t *testing.T
	*sandbox.Replica
	// allowed bounds an answer: the request time-out and what a loaded machine
	// may add.
	http http.Client
}

func start(t *testing.T, cfg sandbox.ReplicaConfig) *client {
	t.Helper()
	return &client{t: t, Replica: sandboxtest.StartReplica(t, cfg), http: http.Client{Timeout: timeout + 2*time.Second}}
}

func (c *client) putSKU(sku string, units int) {
	c.t.Helper()
	body := fmt.Sprintf(`{"name":"A thing","price_cents":999,"currency":"EUR","units":%d}`, units)
	status, text, err := c.call("PUT", "/v1/admin/skus/"+sku, adminToken, "", body)
	if err != nil || status != http.StatusCreated {
		c.t.Fatalf("create SKU: %d %s %v", status, text, err)
	}
}

// order asks for one unit and returns the answer's status.
func (c *client) order(sku, customer string) (int, error) {
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": customer}).SignedString([]byte(secret))
	if err != nil {
		return 0, err
	}
	status, _, err := c.call("POST", "/v1/orders", token, "key of "+sku, fmt.Sprintf(`{"sku":%q,"quantity":1}`, sku))
	return status, err
}

func (c *client) call(method, path, token, key, body string) (int, string, error) {
	request, err := http.NewRequestWithContext(c.t.Context(), method, c.URL+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Idempotency-Key", key)
	response, err := c.http.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

func auditOK(t *testing.T, dsn string) stock.Balance {
	t.Helper()
	report, err := stock.Audit(t.Context(), openDB(t, dsn))
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK {
		t.Errorf("the audit found %+v", report.Violations)
	}
	return report.SKUs[0]
}

func TestReplicasMayStartAtOnce(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	sandboxtest.Build(t, "api")
	var group errgroup.Group
	for i := range 3 {
		cfg := replicaConfig(dsn, fmt.Sprint("replica-", i), strategy.Default)
		group.Go(func() error { start(t, cfg); return nil })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// etcd goes away while a replica serves, and comes back.
func TestOrdersFlowAgainWhenEtcdIsBack(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	dsn := newDSN(t)
	cfg := replicaConfig(dsn, "a", strategy.Default)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	c := start(t, cfg)
	c.putSKU("lamp", 100)
	c.putSKU("sofa", 100)
	if status, err := c.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Fatalf("before: %d, %v", status, err)
	}
	own.Etcd[0].Kill()
	// A lock that was never taken cannot be had, and nothing waits for ever.
	if status, err := c.order("sofa", "ann"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("without etcd: got %d, %v; want 503 in time", status, err)
	}
	if status, _, err := c.call("GET", "/readyz", "", "", ""); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("readiness without etcd: got %d, %v; want 503", status, err)
	}
	if status, _, err := c.call("GET", "/healthz", "", "", ""); err != nil || status != http.StatusOK {
		t.Errorf("liveness without etcd: got %d, %v; want 200", status, err)
	}
	if err := own.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sku := range []string{"sofa", "lamp"} {
		if status, err := c.order(sku, "ben"); err != nil || status != http.StatusCreated {
			t.Errorf("%s with etcd back: got %d, %v; want 201", sku, status, err)
		}
	}
	auditOK(t, dsn)
}

// A replica that is told to end finishes what it has, and its lock is free at
// once: nobody waits for a lease to run out.
func TestDrainAnswersEveryoneAndGivesTheLockBack(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	ending, staying := start(t, replicaConfig(dsn, "a", strategy.Default)), start(t, replicaConfig(dsn, "b", strategy.Default))
	ending.putSKU("lamp", 1000)
	var made atomic.Int64
	first := make(chan struct{})
	var group errgroup.Group
	for worker := range 8 {
		group.Go(func() error {
			for i := range 1000 {
				status, err := ending.order("lamp", fmt.Sprint("customer-", worker, "-", i))
				switch {
				case err != nil, status == http.StatusServiceUnavailable:
					return nil //nolint:nilerr // it no longer listens, or refuses while it drains
				case status != http.StatusCreated:
					return fmt.Errorf("order was answered %d", status)
				}
				if made.Add(1) == 1 {
					close(first)
				}
			}
			return nil
		})
	}
	<-first
	leases := lockLeases(t, openDB(t, dsn).Name)
	if err := ending.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := ending.Wait(t.Context()); err != nil {
		t.Errorf("the replica ended with %v", err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if keys := lockKeys(t, openDB(t, dsn).Name); len(keys) > 0 {
		t.Errorf("the replica left %q in etcd", keys)
	}
	for _, lease := range leases {
		if left, err := openEtcd(t).TimeToLive(t.Context(), lease); err != nil || left.TTL != -1 {
			t.Errorf("the replica's lease was not revoked: %+v, %v", left, err)
		}
	}
	if status, err := staying.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Errorf("the other replica: got %d, %v; want 201", status, err)
	}
	// Every 201 has its row. A connection that broke may hide another answer.
	if got := auditOK(t, dsn).Reserved; got < made.Load()+1 {
		t.Errorf("%d orders were answered 201, %d stand", made.Load()+1, got)
	}
}

func openEtcd(t *testing.T) *clientv3.Client {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: servers.EtcdEndpoints(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	return etcd
}

func lockEntries(t *testing.T, database string) []*mvccpb.KeyValue {
	t.Helper()
	answer, err := openEtcd(t).Get(t.Context(), "flashsale/"+database+"/lock/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	return answer.Kvs
}

func lockKeys(t *testing.T, database string) (keys []string) {
	t.Helper()
	for _, kv := range lockEntries(t, database) {
		keys = append(keys, string(kv.Key)+" "+string(kv.Value))
	}
	return keys
}

func lockLeases(t *testing.T, database string) (leases []clientv3.LeaseID) {
	t.Helper()
	for _, kv := range lockEntries(t, database) {
		leases = append(leases, clientv3.LeaseID(kv.Lease))
	}
	if len(leases) == 0 {
		t.Error("nobody holds a lock")
	}
	return leases
}

// A replica that is killed while it holds the lock is waited for no longer than
// its lease, and says in etcd who it was.
func TestKilledReplicaHoldsOthersUpForItsLease(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	a, b := start(t, replicaConfig(dsn, "a", strategy.Default)), start(t, replicaConfig(dsn, "b", strategy.Default))
	a.putSKU("lamp", 10)
	if status, err := a.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Fatalf("got %d, %v", status, err)
	}
	a.Kill()
	keys := lockKeys(t, openDB(t, dsn).Name)
	var owner struct {
		Replica string
		PID     int
	}
	if len(keys) != 1 {
		t.Fatalf("etcd has %q, want the key of a", keys)
	}
	_, value, _ := strings.Cut(keys[0], " ")
	if err := json.Unmarshal([]byte(value), &owner); err != nil || owner.Replica != "a" || owner.PID != a.Pid() {
		t.Errorf("the owner is %s (%v), want replica a, pid %d", value, err, a.Pid())
	}
	killed := time.Now()
	status, err := b.order("lamp", "ben")
	for err == nil && status == http.StatusServiceUnavailable {
		status, err = b.order("lamp", "ben")
	}
	if err != nil || status != http.StatusCreated {
		t.Errorf("got %d, %v; want 201", status, err)
	}
	if took := time.Since(killed); took > lockTTL+2*time.Second {
		t.Errorf("the other replica was held up for %s", took)
	}
	auditOK(t, dsn)
}
