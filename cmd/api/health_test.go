package main

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestHealthIsTheReplicasReadiness(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/readyz":
			_, _ = io.WriteString(w, `{"status":"ready"}`)
		case "/draining":
			http.Error(w, `{"status":"not ready"}`, http.StatusServiceUnavailable)
		case "/mute":
			<-release
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	for _, test := range []struct{ url, want string }{
		{server.URL + "/readyz", ""},
		{server.URL + "/draining", "503 Service Unavailable"},
		{server.URL + "/mute", "deadline exceeded"},
		{"http://127.0.0.1:1/readyz", "connection refused"},
		{"http://a b/", "--health-url"},
	} {
		args := []string{"health", "--health-url=" + test.url, "--health-timeout=30s"}
		if strings.HasSuffix(test.url, "/mute") { // all others answer
			args = append(args, "--health-timeout=300ms")
		}
		err := run(context.Background(), args, io.Discard, io.Discard)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("health of %s: %v, want an error with %q", test.url, err, test.want)
		}
	}
}

// listening starts a server that answers like a ready replica, by TLS if files are
// given, and returns its port.
func listening(t *testing.T, addr string, files *sandbox.TLS) (port string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || r.FormValue("for") != "selling" {
			http.NotFound(w, r)
		}
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	_ = server.Listener.Close()
	var err error
	if server.Listener, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	if files == nil {
		server.Start()
	} else {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	return port
}

// The health check of an image has no arguments: it finds the replica by the environment
// or the file that configures both.
func TestHealthAsksTheConfiguredReplica(t *testing.T) {
	ca := sandboxtest.NewAuthority(t)
	for name, files := range map[string]*sandbox.TLS{
		"plain HTTP": nil, "a name": ca.Issue("name", "shop.example"), "a wildcard": ca.Issue("wildcard", "*.shop.example", "192.0.2.7"),
		"an address": ca.Issue("address", "192.0.2.7"),
	} {
		for _, addr := range []string{"", "0.0.0.0", "127.0.0.7", "localhost"} {
			port := listening(t, addr+":0", files)
			t.Setenv("FLASHSALE_ADDR", addr+":"+port)
			t.Setenv("FLASHSALE_TLS_CERT", "")
			if files != nil {
				t.Setenv("FLASHSALE_TLS_CERT", files.Cert)
			}
			if out, err := tool(t, "health", "--health-timeout=30s"); err != nil {
				t.Errorf("%s at %q: %v %s", name, addr, err, out)
			}
		}
	}
	files := ca.Issue("file", "shop.example")
	port := listening(t, "127.0.0.1:0", files)
	_ = os.Unsetenv("FLASHSALE_ADDR") // Setenv above brings it back
	_ = os.Unsetenv("FLASHSALE_TLS_CERT")
	config := filepath.Join(t.TempDir(), "flags.json")
	if err := os.WriteFile(config, []byte(`{"addr":"127.0.0.1:`+port+`","tls-cert":"`+files.Cert+`","tls-key":"`+files.Key+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FLASHSALE_CONFIG", config)
	mustTool(t, "health", "--health-timeout=30s")
	// A renewed certificate that the replica cannot use does not make it unhealthy.
	mustTool(t, "health", "--health-timeout=30s", "--tls-cert="+ca.Issue("renewed", "shop.example").Cert)
	for _, wrong := range []struct {
		args []string
		want []string
	}{
		{[]string{"--addr=127.0.0.1:1"}, []string{"https://127.0.0.1:1/readyz", "connection refused"}},
		{[]string{"--tls-cert="}, []string{"http://127.0.0.1", "400"}},
		{[]string{"--health-for=reading"}, []string{"/readyz?for=reading", "404"}},
		{[]string{"--health-for=buying"}, []string{"--health-for"}},
		{[]string{"--addr=8080"}, []string{"--addr", "missing port"}},
		{[]string{"--addr=127.0.0.1:0"}, []string{"--addr", "--health-url"}},
		{[]string{"--addr=a b:80"}, []string{"--addr"}},
		{[]string{"--internal-addr=8081"}, []string{"--internal-addr", "missing port"}},
		{[]string{"--health-url=http://127.0.0.1:1/x"}, []string{"http://127.0.0.1:1/x", "connection refused"}},
		{[]string{"--health-url=https://127.0.0.1:" + port + "/readyz"}, []string{"x509"}},
	} {
		out, err := tool(t, append([]string{"health", "--health-timeout=30s"}, wrong.args...)...)
		for _, want := range wrong.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, %v; want an error with %q", wrong.args, out, err, want)
			}
		}
	}
}

func TestHealthFindsAWildcardListenerOnThisMachine(t *testing.T) {
	t.Parallel()
	health := func(addr string) {
		t.Helper()
		if out, err := tool(t, "health", "--health-timeout=30s", "--addr="+addr); err != nil {
			t.Errorf("--addr=%s: %v %s", addr, err, out)
		}
	}
	port := listening(t, ":0", nil)
	for _, host := range []string{"", "0.0.0.0", "[::]", "localhost"} {
		health(host + ":" + port)
	}
	// A machine with IPv6 only: the reserved port refuses connections to 127.0.0.1.
	_, port, _ = net.SplitHostPort(sandboxtest.ReservePort(t))
	probe, err := net.Listen("tcp", "[::1]:"+port)
	if err != nil {
		t.Logf("this machine has no IPv6: %v", err)
		return
	}
	_ = probe.Close()
	listening(t, "[::1]:"+port, nil)
	health("[::]:" + port)
}
