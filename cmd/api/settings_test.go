package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"flashsale/internal/strategy"
)

// tool runs one of the program's tools in this process.
func tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, &out, &out)
	return out.String(), err
}

// mustTool is tool for a call that has to succeed.
func mustTool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tool(t, args...)
	if err != nil {
		t.Fatalf("api %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// readiness is a replica's answer to GET /readyz.
func (c *client) readiness() (status int, checks map[string]string) {
	c.t.Helper()
	status, body, err := c.call("GET", "/readyz", "", "", "")
	if err != nil {
		c.t.Fatal(err)
	}
	var answer struct{ Checks map[string]string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		c.t.Fatalf("%s: %v", body, err)
	}
	return status, answer.Checks
}

// awaitLog waits until a replica's log holds a text.
func (c *client) awaitLog(want string) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(c.LogTail(1000), want); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("replica %s never logged %q", c.Name, want)
		}
	}
}

// awaitConfig waits until readiness shows a text for the settings, and is ready.
func (c *client) awaitConfig(want string) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		status, checks := c.readiness()
		if status == http.StatusOK && strings.Contains(checks["config"], want) {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("readiness of %s: got %d, %q; want 200, %q", c.Name, status, checks["config"], want)
		}
	}
}

// awaitTooMany waits until an order of the i-th customer is one too many.
func (c *client) awaitTooMany(of string, customer func(i int) string) {
	c.t.Helper()
	i := 0
	c.await("429 for too many requests of "+of, func(map[string]*family) bool {
		i++
		status, err := c.order("no-such", customer(i))
		if err != nil {
			c.t.Fatal(err)
		}
		return status == http.StatusTooManyRequests
	})
}

func TestConfigChangesEveryReplicaWithinASecond(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	where := []string{"--mysql-dsn=" + dsn, "--etcd-endpoints=" + servers.EtcdEndpoints()[0]}
	config := func(args ...string) []string { return append(append([]string{"config"}, args...), where...) }
	var replicas []*client
	for i := range 3 {
		replicas = append(replicas, start(t, replicaConfig(dsn, fmt.Sprint("replica-", i), strategy.Default)))
	}
	store := func(value string) {
		t.Helper()
		key := "flashsale/" + openDB(t, dsn).Name + "/config/quantum"
		if _, err := openEtcd(t).Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	// In this process, so that what is timed is not a program's start.
	mustTool(t, config("set", "log-level", "debug")...)
	for _, c := range replicas {
		c.awaitLog(`"setting":"log-level","before":"info","after":"debug"`)
		c.await("a line at debug", func(map[string]*family) bool { return strings.Contains(c.LogTail(1000), `"level":"DEBUG"`) })
	}
	// A machine that has other things to do may need another try.
	from, took := "50ms", []time.Duration{}
	for _, to := range []string{"30ms", "40ms", "20ms"} {
		began := time.Now()
		store(to)
		for _, c := range replicas {
			c.awaitLog(fmt.Sprintf(`"setting":"quantum","before":%q,"after":%q`, from, to))
		}
		from, took = to, append(took, time.Since(began).Round(time.Microsecond))
	}
	t.Logf("three replicas had another quantum after %s", took)
	if slices.Min(took) > time.Second {
		t.Errorf("it took %s, want at most 1s", took)
	}

	// Limits, seen by who is limited.
	mustTool(t, config("set", "rate-limit-customer", "1/1h")...)
	for _, c := range replicas {
		c.awaitLog(`"setting":"rate-limit-customer","before":"0","after":"1/1h0m0s"`)
		c.awaitTooMany("one customer", func(int) string { return "dan" })
	}
	mustTool(t, config("set", "rate-limit-address", "1/1h")...)
	for _, c := range replicas {
		c.awaitLog(`"setting":"rate-limit-address","before":"0","after":"1/1h0m0s"`)
		c.awaitTooMany("one address", func(i int) string { return fmt.Sprint("customer-", i) })
	}

	// The tool refuses a bad value; one that comes otherwise is reported, and
	// takes no replica away.
	if out, err := tool(t, config("set", "quantum", "soon")...); err == nil || !strings.Contains(err.Error(), `quantum: "soon" is not a duration`) {
		t.Errorf("set quantum soon: %v\n%s", err, out)
	}
	store("soon")
	for _, c := range replicas {
		c.awaitConfig(`ignored: quantum: "soon" is not a duration`)
	}
	if _, err := openEtcd(t).Put(t.Context(), "flashsale/"+openDB(t, dsn).Name+"/config/qantum", "20ms"); err != nil {
		t.Fatal(err)
	}
	out := mustTool(t, config("list")...)
	for _, want := range []string{"debug", `IGNORED: "soon" is not a duration`, `IGNORED: there is no setting "qantum"`, "- (not read)"} {
		if !strings.Contains(out, want) {
			t.Errorf("config list is without %s:\n%s", want, out)
		}
	}
	mustTool(t, config("delete", "qantum")...)
	if _, err := tool(t, config("delete", "quantum", "--revision=1")...); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("delete as of another revision: %v", err)
	}
	if out := mustTool(t, config("delete", "quantum")...); out != "quantum deleted: each replica's flags apply\n" {
		t.Errorf("delete: %q", out)
	}
	for _, c := range replicas {
		c.awaitConfig("ok")
		c.awaitLog(`"setting":"quantum","before":"20ms","after":"50ms"`)
	}
	if out := mustTool(t, config("get", "log-level")...); out != "debug\n" {
		t.Errorf("config get: %q", out)
	}
	if _, err := tool(t, config("get", "quantum")...); err == nil || !strings.Contains(err.Error(), "flags apply") {
		t.Errorf("get of what was deleted: %v", err)
	}
	if out := mustTool(t, config("delete", "quantum")...); !strings.Contains(out, "was not set in etcd") {
		t.Errorf("delete of what was deleted: %q", out)
	}
	if _, err := tool(t, config("delete", "quantum", "--revision=1")...); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("delete of what was deleted, as of another revision: %v", err)
	}

	// A name that is no setting may be cleared away, and is an error once it is gone.
	if _, err := openEtcd(t).Put(t.Context(), "flashsale/"+openDB(t, dsn).Name+"/config/rate-limit-custmer", "1/1h"); err != nil {
		t.Fatal(err)
	}
	mustTool(t, config("delete", "rate-limit-custmer")...)
	for _, args := range [][]string{{"delete", "rate-limit-custmer"}, {"delete", "rate-limit-custmer", "--revision=1"}} {
		if out, err := tool(t, config(args...)...); err == nil || !strings.Contains(err.Error(), `there is no setting "rate-limit-custmer"`) {
			t.Errorf("%s: %v %s", args, err, out)
		}
	}
}

func TestConfigOfAStrategyWithoutEtcdSaysSo(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	if _, err := tool(t, "config", "list", "--mysql-dsn="+dsn); err == nil || !strings.Contains(err.Error(), "this database has no tables of flashsale yet") {
		t.Errorf("got %v", err)
	}
	c := start(t, replicaConfig(dsn, "a", "conditional"))
	if _, err := tool(t, "config", "list", "--mysql-dsn="+dsn); err == nil || !strings.Contains(err.Error(), "strategy conditional does not use etcd") {
		t.Errorf("got %v", err)
	}
	if _, checks := c.readiness(); checks["config"] != "" {
		t.Errorf("readiness shows settings: %v", checks)
	}
}
