package main

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/order"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// awaitRefusal waits until orders are refused with the problem slug.
func (c *client) awaitRefusal(sku, slug string) (body string) {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		status, body, err := c.orderBody(sku, "somebody")
		if err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, `"/errors/`+slug+`"`) {
			return body
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("got %d %s, %v; want 503 %s", status, body, err, slug)
		}
	}
}

// advance increases etcd's revision.
func advance(t *testing.T, endpoint string, revisions int) {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	var writers errgroup.Group
	writers.SetLimit(64)
	for i := range revisions {
		writers.Go(func() error { _, err := etcd.Put(t.Context(), fmt.Sprint("elsewhere/", i), ""); return err })
	}
	if err := writers.Wait(); err != nil {
		t.Fatal(err)
	}
}

// etcd was restored from a backup: it has the same cluster id, but older revisions than
// MySQL has admitted. Neither a running nor a starting replica sells, and each says why,
// until an operator adopts it.
func TestRestoredEtcdIsRefusedUntilItIsAdopted(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	node := own.Etcd[0]
	data, backup := filepath.Join(own.Dir(), node.Name), filepath.Join(t.TempDir(), "backup")
	dsn := newDSN(t)
	config := func(name string) sandbox.ReplicaConfig {
		cfg := replicaConfig(dsn, name, strategy.Default)
		cfg.EtcdEndpoints = own.EtcdEndpoints()
		return cfg
	}
	a := start(t, config("a"))
	a.putSKU("lamp", 1000)
	buy := func(c *client, customer string) {
		t.Helper()
		if status, body, err := c.orderBody("lamp", customer); err != nil || status != http.StatusCreated {
			t.Fatalf("%s at %s: got %d %s, %v; want 201", customer, c.Name, status, body, err)
		}
	}
	_, ordered, err := a.orderBody("lamp", "ann")
	if err != nil {
		t.Fatal(err)
	}
	ann := orderID(t, ordered)
	node.Kill()
	if err := os.CopyFS(backup, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	if err := node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	// This order is not in the backup. The replica checks once a second.
	advance(t, node.Endpoint, 2000)
	a.putSKU("sofa", 10)
	if status, err := a.order("sofa", "cid"); err != nil || status != http.StatusCreated { // with a token of now
		t.Fatalf("got %d, %v; want 201", status, err)
	}
	for i, began := 0, time.Now(); time.Since(began) < 4*checkEvery; i++ {
		buy(a, fmt.Sprint("later-", i))
		time.Sleep(50 * time.Millisecond)
	}
	node.Kill()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}

	if body := a.awaitRefusal("lamp", "tokens-behind"); !strings.Contains(body, "fence adopt") {
		t.Errorf("the answer does not say what to do: %s", body)
	}
	a.awaitReady(http.StatusServiceUnavailable, "guard", string(haltReason(order.ErrTokensBehind)))
	for _, sku := range []string{"lamp", "new"} {
		if status, text, err := a.call("PUT", "/v1/admin/skus/"+sku, adminToken, "", `{"name":"A","price_cents":1,"currency":"EUR","units":1}`); err != nil ||
			status != http.StatusServiceUnavailable || !strings.Contains(text, "tokens-behind") {
			t.Errorf("put the SKU %s: %d %s, %v", sku, status, text, err)
		}
	}
	if status, text, err := a.call("POST", "/v1/orders/"+ann+"/payment", customerToken(t, "ann"), "", "{}"); err != nil || status != http.StatusOK {
		t.Errorf("a payment, which needs no token: %d %s, %v; want 200", status, text, err)
	}
	if status, _, err := a.call("GET", "/v1/skus/lamp", "", "", ""); err != nil || status != http.StatusOK {
		t.Errorf("reading the SKU: %d, %v; want 200", status, err)
	}
	etcd := "--etcd-endpoints=" + node.Endpoint
	err = serve(t, "--mysql-dsn="+dsn, etcd)
	if err == nil || !strings.Contains(err.Error(), "was restored or emptied since") || !strings.Contains(err.Error(), "fence adopt") {
		t.Errorf("a replica that starts: got %v", err)
	}

	if out := mustTool(t, "fence", "show", "--mysql-dsn="+dsn); !strings.HasPrefix(out, "strategy etcd, fence claim, tokens of etcd cluster ") || strings.HasSuffix(out, " 0\n") {
		t.Errorf("fence show: %s", out)
	}
	adopt := []string{"fence", "adopt", "--mysql-dsn=" + dsn, etcd}
	if _, err := tool(t, adopt...); !errors.Is(err, stock.ErrInUse) {
		t.Errorf("adopt while a replica runs: got %v, want %v", err, stock.ErrInUse)
	}
	// A paused replica would write when it resumes.
	sandboxtest.Pause(t, a.Process)
	if _, err := tool(t, adopt...); !errors.Is(err, stock.ErrInUse) {
		t.Errorf("adopt while a replica is paused: got %v, want %v", err, stock.ErrInUse)
	}
	sandboxtest.Resume(t, a.Process)
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	mustTool(t, adopt...)
	b := start(t, config("b"))
	buy(b, "ben")
	buy(b, "ann") // her order of then
	if out := mustTool(t, "locks", "--mysql-dsn="+dsn, etcd); !strings.Contains(out, "lamp") || !strings.Contains(out, " b ") {
		t.Errorf("api locks:\n%s", out)
	}
	if out := mustTool(t, "audit", "--mysql-dsn="+dsn, etcd); !strings.Contains(out, "every invariant holds") {
		t.Errorf("api audit:\n%s", out)
	}
}

// A replica halts if it loses its replica lock and the database is adopted meanwhile.
func TestReplicaHaltsWhenTheDatabaseIsAdopted(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	c := start(t, replicaConfig(dsn, "a", "conditional"))
	c.putSKU("lamp", 10)
	db := openDB(t, dsn)
	adopt := stock.Binding{Strategy: "row-lock", Fence: strategy.FenceOff}
	for deadline := time.Now().Add(60 * time.Second); ; {
		// The replica acquires the lock again within a second: adopt before that.
		if _, err := db.SQL.ExecContext(t.Context(), fmt.Sprint("KILL ", replicaLockOf(t, db))); err != nil {
			t.Log(err) // it has ended meanwhile
		}
		err := db.Adopt(t.Context(), adopt)
		if err == nil {
			break
		}
		if !errors.Is(err, stock.ErrInUse) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	c.awaitRefusal("lamp", "guard-changed")
	c.awaitReady(http.StatusServiceUnavailable, "guard", "the database was switched to another strategy or lock server; restart this replica")
}

// replicaLockOf returns the connection that holds the replica lock.
func replicaLockOf(t *testing.T, db *stock.DB) (id int64) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := db.OnConn(t.Context(), func(conn *sql.Conn) (err error) {
			id, err = db.ReplicaConnection(t.Context(), conn)
			return err
		})
		if err == nil && id != 0 {
			return id
		}
		if time.Now().After(deadline) {
			t.Fatalf("connection %d, %v", id, err)
		}
	}
}
