package main

import (
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// Health and metrics have an address of their own. It answers while callers hold all
// connections of --addr, and until the end of a drain.
func TestInternalAddressAnswersWhateverCallersDo(t *testing.T) {
	t.Parallel()
	addr := sandboxtest.ReservePort(t)
	cfg := replicaConfig(newDSN(t), "a", "none")
	// The order below never ends.
	cfg.Args = append(cfg.Args, "--internal-addr="+addr, "--max-connections=3", "--think-time=1h", "--request-timeout=2h", "--drain-timeout=1h")
	c := start(t, cfg)
	inside := &client{t: t, Replica: &sandbox.Replica{Process: c.Process, Name: c.Name, URL: "http://" + addr}, http: c.http}
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/metrics": http.StatusOK, "/v1/skus": http.StatusNotFound, "/admin": http.StatusNotFound} {
		if status, text, err := inside.call("GET", path, "", "", ""); err != nil || status != want {
			t.Errorf("GET %s inside: %d %s, %v; want %d", path, status, text, err, want)
		}
	}
	mustTool(t, "health", "--internal-addr="+addr, "--addr=127.0.0.1:1", "--tls-cert=/nowhere", "--health-timeout=30s")

	c.putSKU("lamp", 1)
	c.http.CloseIdleConnections()
	var ordering sync.WaitGroup
	defer ordering.Wait()
	ordering.Go(func() { _, _ = c.order("lamp", "ann") })
	for range 2 {
		w := dial(t, c.Replica)
		w.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := w.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	inside.await("the order is in flight", func(metrics map[string]*family) bool {
		return total(metrics["flashsale_http_in_flight_requests"]) == 2 // and the scrape
	})
	waiting := dial(t, c.Replica)
	waiting.send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	inside.awaitReady(http.StatusOK, "mysql", "ok")

	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "--addr is closed", func() bool {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(c.URL, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	inside.awaitReady(http.StatusServiceUnavailable, "replica", "draining")
	if status, _, err := inside.call("GET", "/healthz", "", "", ""); err != nil || status != http.StatusOK {
		t.Errorf("liveness while draining: %d, %v", status, err)
	}
	c.Kill()
}
