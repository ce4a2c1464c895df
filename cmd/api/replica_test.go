package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

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
	http http.Client
}

func start(t *testing.T, cfg sandbox.ReplicaConfig) *client {
	t.Helper()
	return &client{t: t, Replica: sandboxtest.StartReplica(t, cfg), http: http.Client{Timeout: answerWithin}}
}

// terminate sends SIGTERM and waits until the replica has ended.
func (c *client) terminate() {
	c.t.Helper()
	if err := c.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	if err := c.Wait(c.t.Context()); err != nil {
		c.t.Errorf("the replica ended with %v", err)
	}
}

func (c *client) putSKU(sku string, units int) {
	c.t.Helper()
	body := fmt.Sprintf(`{"name":"A thing","price_cents":999,"currency":"EUR","units":%d}`, units)
	status, text, err := c.call("PUT", "/v1/admin/skus/"+sku, adminToken, "", body)
	if err != nil || status != http.StatusCreated {
		c.t.Fatalf("create SKU: %d %s %v", status, text, err)
	}
}

func customerToken(tb testing.TB, customer string) string {
	tb.Helper()
	return sandboxtest.Token(tb, secret, map[string]any{"sub": customer})
}

// order orders one unit and returns the answer's status.
func (c *client) order(sku, customer string) (int, error) {
	status, _, err := c.orderBody(sku, customer)
	return status, err
}

// orderBody is order, with the answer's body.
func (c *client) orderBody(sku, customer string) (int, string, error) {
	return c.call("POST", "/v1/orders", customerToken(c.t, customer), "key of "+sku, fmt.Sprintf(`{"sku":%q,"quantity":1}`, sku))
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

func TestReplicasMayStartAtTheSameTime(t *testing.T) {
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

// Both replicas refuse orders of a sold-out SKU, but return the order to a buyer whose
// answer was lost.
func TestSoldOutIsRefusedAndReplayed(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	replicas := []*client{start(t, replicaConfig(dsn, "a", strategy.Default)), start(t, replicaConfig(dsn, "b", strategy.Default))}
	replicas[0].putSKU("lamp", 1)
	if status, err := replicas[0].order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Fatalf("got %d, %v", status, err)
	}
	for _, c := range replicas {
		if status, err := c.order("lamp", "ben"); err != nil || status != http.StatusConflict {
			t.Fatalf("replica %s, sold out: got %d, %v; want 409", c.Name, status, err)
		}
		if status, err := c.order("lamp", "ann"); err != nil || status != http.StatusCreated {
			t.Errorf("replica %s, retry: got %d, %v; want 201", c.Name, status, err)
		}
	}
	auditOK(t, dsn)
}

// etcd becomes unavailable while a replica serves, and recovers.
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
	// A lock that this replica does not hold cannot be acquired, and the wait is bounded.
	if status, err := c.order("sofa", "ann"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("without etcd: got %d, %v; want 503 in time", status, err)
	}
	c.awaitReady(http.StatusServiceUnavailable, "etcd", "does not answer")
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

// A replica that is stopped finishes its requests and releases its lock at once: no
// replica waits for the lease to end.
func TestDrainAnswersAllRequestsAndReleasesTheLock(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	ending, staying := start(t, replicaConfig(dsn, "a", strategy.Default)), start(t, replicaConfig(dsn, "b", strategy.Default))
	ending.putSKU("lamp", 10_000) // more than all workers order
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
	sandboxtest.Await(t, first, "an order")
	leases := lockLeases(t, openDB(t, dsn).Name)
	ending.terminate()
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
	// Every 201 has its row. There may be more rows: a broken connection hides an answer.
	if got := auditOK(t, dsn).Reserved; got < made.Load()+1 {
		t.Errorf("%d orders were answered 201; the database has %d", made.Load()+1, got)
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
		t.Error("no replica holds a lock")
	}
	return leases
}

// After a replica was killed, others wait for its lock no longer than its lease. Its key
// in etcd names it.
func TestKilledReplicaHoldsOthersUpForItsLease(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	// Long enough to read the dead replica's keys.
	const ttl = 10 * time.Second
	config := func(name string) sandbox.ReplicaConfig {
		cfg := replicaConfig(dsn, name, strategy.Default)
		cfg.Args = append(cfg.Args, "--lock-ttl="+ttl.String())
		return cfg
	}
	a, b := start(t, config("a")), start(t, config("b"))
	a.putSKU("lamp", 10)
	if status, err := a.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Fatalf("got %d, %v", status, err)
	}
	leases := lockLeases(t, openDB(t, dsn).Name)
	if left, err := openEtcd(t).TimeToLive(t.Context(), leases[0]); err != nil || left.GrantedTTL != int64(ttl.Seconds()) {
		t.Errorf("the lease is %+v (%v), want one of %s", left, err, ttl)
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
	// Orders ask again for as long as they may take, on a machine that is slow as well.
	if took := time.Since(killed); took > ttl+2*timeout {
		t.Errorf("the other replica was held up for %s", took)
	}
	auditOK(t, dsn)
}
