package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// A replica with the most detailed log gets valid and invalid requests of every kind,
// and its servers fail. No answer, log line or argument contains a secret.
func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	etcdPassword, ourAdmin, ourSecret := sandbox.Secret(), sandbox.Secret(), sandbox.Secret()
	enableAuth(t, own.EtcdEndpoints(), "replica", etcdPassword)
	dsn, err := own.MySQL.CreateDatabase(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	token := sandboxtest.Token(t, ourSecret, map[string]any{"sub": "ann"})
	signature := token[strings.LastIndex(token, ".")+1:]
	secrets := map[string]string{
		"the password of MySQL": parsed.Passwd, "the password of etcd": etcdPassword, "the admin token": ourAdmin,
		"the secret of tokens": ourSecret, "a customer's token": signature,
	}
	var shown strings.Builder
	cfg := replicaConfig(dsn, "a", strategy.Default)
	cfg.EtcdEndpoints, cfg.AdminToken, cfg.JWTSecret = own.EtcdEndpoints(), ourAdmin, ourSecret
	cfg.Args = append(cfg.Args, "--log-level=debug", "--etcd-username=replica", "--rate-limit-address=100000/1s")
	cfg.Env = append(cfg.Env, "FLASHSALE_ETCD_PASSWORD="+etcdPassword)
	cfg.LogPath = filepath.Join(t.TempDir(), "log")
	c := start(t, cfg)
	call := func(want int, method, path, bearer, body string) {
		t.Helper()
		status, text, err := c.call(method, path, bearer, "key", body)
		if err != nil || status != want {
			t.Errorf("%s %s: got %d %s, %v; want %d", method, path, status, text, err, want)
		}
		fmt.Fprintln(&shown, text)
	}
	const sku = `{"name":"A thing","price_cents":999,"currency":"EUR","units":9}`
	lamp := `{"sku":"lamp","quantity":1}`
	call(http.StatusCreated, "PUT", "/v1/admin/skus/lamp", ourAdmin, sku)
	call(http.StatusCreated, "PUT", "/v1/admin/skus/sofa", ourAdmin, sku)
	call(http.StatusCreated, "POST", "/v1/orders", token, lamp)
	call(http.StatusOK, "GET", "/v1/admin/audit", ourAdmin, "")
	call(http.StatusOK, "GET", "/v1/admin/locks", ourAdmin, "")
	call(http.StatusUnauthorized, "POST", "/v1/orders", token+"x", lamp)
	call(http.StatusUnauthorized, "POST", "/v1/orders", ourAdmin, lamp)
	call(http.StatusForbidden, "GET", "/v1/admin/audit", token, "")
	call(http.StatusUnauthorized, "GET", "/v1/admin/audit", ourAdmin+"x", "")
	call(http.StatusBadRequest, "POST", "/v1/orders", token, `{"token":`)
	call(http.StatusNotFound, "GET", "/nowhere", token, "")
	call(http.StatusOK, "GET", "/readyz", token, "")
	call(http.StatusOK, "GET", "/metrics", token, "")
	own.MySQL.Kill()
	call(http.StatusServiceUnavailable, "GET", "/v1/orders/018f0000-0000-7000-8000-000000000000", token, "")
	call(http.StatusServiceUnavailable, "GET", "/v1/admin/audit", ourAdmin, "")
	c.awaitReady(http.StatusServiceUnavailable, "mysql", "does not answer")
	call(http.StatusServiceUnavailable, "GET", "/readyz", "", "")
	own.Etcd[0].Kill()
	call(http.StatusServiceUnavailable, "GET", "/readyz", "", "")
	if status, text, err := c.call("POST", "/v1/orders", token, "key 2", `{"sku":"sofa","quantity":1}`); err != nil || status < 500 {
		t.Errorf("an order without servers: got %d %s, %v", status, text, err)
	} else {
		fmt.Fprintln(&shown, text)
	}
	call(http.StatusOK, "GET", "/metrics", "", "")
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	c.Kill()
	log, err := os.ReadFile(cfg.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), `"level":"DEBUG"`) {
		t.Error("the log has no lines at debug level")
	}
	for where, text := range map[string]string{"an answer": shown.String(), "the log": string(log), "the arguments": string(arguments)} {
		for what, secret := range secrets {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s contains %s: ...%s", where, what, text[max(0, at-200):at])
			}
		}
	}
}

// An error about a server that refuses the password does not contain the password.
func TestRefusedPasswordsAreNotShown(t *testing.T) {
	t.Parallel()
	parsed, err := mysql.ParseDSN(newDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	parsed.Passwd = "hidden-password"
	for _, args := range [][]string{
		{"--mysql-dsn=" + parsed.FormatDSN(), "--strategy=conditional"},
		{"--mysql-dsn=" + newDSN(t), "--etcd-endpoints=http://user:hidden-password@127.0.0.1:1"},
		{"--mysql-dsn=" + newDSN(t), "--strategy=redis", "--redis-addrs=redis://user:hidden-password@127.0.0.1:1"},
		{"--mysql-dsn=user:hidden-password@nowhere/shop", "--strategy=conditional"},
		{"--mysql-dsn=user:hidden-password@tcp(127.0.0.1:1)/shop?tls=hidden-password", "--strategy=conditional"},
	} {
		var shown bytes.Buffer
		args = append([]string{"serve", "--addr=127.0.0.1:0", "--log-level=debug", "--start-timeout=1s",
			"--admin-token=" + adminToken, "--jwt-secret=" + secret}, args...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := run(ctx, args, &shown, &shown)
		cancel()
		if err == nil {
			t.Errorf("%s: the program started", args)
		}
		if text := shown.String() + fmt.Sprint(err); strings.Contains(text, "hidden-password") {
			t.Errorf("%s printed the password: %s", args, text)
		}
	}
}
