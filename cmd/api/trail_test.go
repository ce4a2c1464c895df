package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// line waits for the first line of a replica's log that has these values.
func (c *client) line(want map[string]any) map[string]any {
	c.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		log := c.LogTail(2000)
		for text := range strings.Lines(log) {
			var line map[string]any
			if json.Unmarshal([]byte(text), &line) != nil {
				continue
			}
			matches := true
			for name, value := range want {
				matches = matches && reflect.DeepEqual(line[name], value)
			}
			if matches {
				return line
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("replica %s never logged %v: %s", c.Name, want, log)
		}
	}
}

// Each administrator's call leaves one line, and so do a changed setting and
// a lost lock: who, from where, what, before and after.
func TestAdminCallsLeaveATrail(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	cfg := replicaConfig(dsn, "a", strategy.Default)
	// As many guesses as by default, but none more while the test runs.
	cfg.Args = append(cfg.Args, "--trusted-proxies=127.0.0.1", "--rate-limit-admin-guesses=10/24h")
	a := start(t, cfg)
	const operator, guesser = "192.0.2.7", "203.0.113.9"
	calls := 0
	// call makes a call and returns its line.
	call := func(from, method, path, bearer, body string, status int) map[string]any {
		t.Helper()
		calls++
		id := fmt.Sprintf("call-%d", calls)
		request, err := http.NewRequestWithContext(t.Context(), method, a.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"Authorization": "Bearer " + bearer, "Idempotency-Key": "restock", "X-Request-Id": id, "X-Forwarded-For": from} {
			request.Header.Set(name, value)
		}
		response, err := a.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != status {
			t.Fatalf("%s %s: got %d, want %d", method, path, response.StatusCode, status)
		}
		return a.line(map[string]any{"msg": "admin call", "level": "INFO", "replica": "a", "request_id": id, "remote": from, "status": float64(status)})
	}
	expect := func(line map[string]any, want map[string]any) {
		t.Helper()
		for name, value := range want {
			if !reflect.DeepEqual(line[name], value) {
				t.Errorf("%s is %v, want %v, in %v", name, line[name], value, line)
			}
		}
	}
	type fields = map[string]any
	thing := func(price int) string {
		return fmt.Sprintf(`{"name":"A thing","price_cents":%d,"currency":"EUR","units":500}`, price)
	}
	ops := sandboxtest.Token(t, secret, map[string]any{"sub": "ops", "scope": "admin"})

	line := call(operator, "PUT", "/v1/admin/skus/lamp", adminToken, thing(999), http.StatusCreated)
	expect(line, fields{"action": "putSKU", "sku": "lamp", "actor": "admin-token", "subject": nil, "before": nil})
	if after, _ := line["after"].(fields); after["price_cents"] != 999.0 || after["units"] != 500.0 || after["name"] != "A thing" {
		t.Errorf("after the creation: %v", line)
	}
	line = call(operator, "PUT", "/v1/admin/skus/lamp", ops, thing(1500), http.StatusOK)
	expect(line, fields{"actor": "jwt", "subject": "ops"})
	before, after := line["before"].(fields), line["after"].(fields)
	if len(before) != 2 || before["price_cents"] != 999.0 || after["price_cents"] != 1500.0 || after["revision"] != before["revision"].(float64)+1 {
		t.Errorf("a new price: %v", line)
	}
	line = call(operator, "POST", "/v1/admin/skus/lamp/restocks", ops, `{"units":3}`, http.StatusCreated)
	before, after = line["before"].(fields), line["after"].(fields)
	if line["action"] != "restockSKU" || len(before) != 2 || before["units"] != 500.0 || after["units"] != 503.0 {
		t.Errorf("a restock: %v", line)
	}
	expect(call(operator, "POST", "/v1/admin/skus/lamp/restocks", ops, `{"units":3}`, http.StatusCreated), fields{"replayed": true, "before": nil, "after": nil})
	expect(call(operator, "GET", "/v1/admin/audit", ops, "", http.StatusOK), fields{"action": "audit", "before": nil, "after": nil})
	expect(call(operator, "PUT", "/v1/admin/skus/lamp", ops, `{}`, http.StatusUnprocessableEntity), fields{"problem": "invalid-input", "before": nil, "after": nil})

	// Refused calls, and then too many of them.
	expect(call(guesser, "PUT", "/v1/admin/skus/lamp", customerToken(t, "eve"), thing(1), http.StatusForbidden),
		fields{"problem": "forbidden", "actor": "jwt", "subject": "eve", "reason": "The token's scope does not contain admin.", "after": nil})
	if help := mustTool(t, "serve", "--help"); !strings.Contains(help, "10/1m") {
		t.Error("--rate-limit-admin-guesses is not 10/1m by default")
	}
	for range 10 {
		expect(call(guesser, "PUT", "/v1/admin/skus/lamp", adminToken+"x", thing(1), http.StatusUnauthorized),
			fields{"problem": "unauthorized", "actor": "", "reason": "The token is neither the admin token nor a JWT.", "after": nil})
	}
	expect(call(guesser, "PUT", "/v1/admin/skus/lamp", adminToken, thing(1), http.StatusTooManyRequests), fields{"problem": "too-many-requests", "actor": ""})

	// A setting: etcd does not tell who wrote it, but the revision is that of the write.
	said := mustTool(t, "config", "set", "rate-limit-customer", "1000/10s", "--mysql-dsn="+dsn, "--etcd-endpoints="+servers.EtcdEndpoints()[0])
	line = a.line(fields{"msg": "setting changed", "level": "INFO", "setting": "rate-limit-customer", "before": "0", "after": "1000/10s"})
	if !strings.Contains(said, fmt.Sprintf("at revision %.0f\n", line["revision"])) {
		t.Errorf("api config set says %q, the log %v", said, line)
	}

	// A revoked lock: the operator's line, and the holder's. An idle holder releases the
	// lock by itself, so it may take more than one try.
	for revoked := false; !revoked; {
		if status, err := a.order("lamp", fmt.Sprint("customer-", calls)); err != nil || status != http.StatusCreated {
			t.Fatalf("an order: %d, %v", status, err)
		}
		status, _, err := a.call("DELETE", "/v1/admin/locks/lamp", ops, "", "")
		if err != nil {
			t.Fatal(err)
		}
		calls, revoked = calls+1, status == http.StatusNoContent
	}
	line = a.line(fields{"msg": "admin call", "action": "revokeLock", "sku": "lamp", "status": float64(http.StatusNoContent), "subject": "ops"})
	held, _ := line["before"].(fields)
	if held["replica"] != "a" || held["holder"] == "" {
		t.Errorf("the revoked grant is not named: %v", line)
	}
	a.line(fields{"msg": "lost a lock: its grant expired or was revoked", "level": "WARN", "sku": "lamp", "token": held["token"]})

	if log := a.LogTail(2000); strings.Contains(log, adminToken) || strings.Contains(log, secret) || strings.Contains(log, ops) {
		t.Error("the log contains a secret")
	}
}
