package attack

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// withProxyAndCA runs the tests in an environment that names a proxy, which does not exist,
// and that trusts the certificate of httptest's servers. A process reads both only once.
func withProxyAndCA(run func() int) int {
	dir, err := os.MkdirTemp("", "attack-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "SSL_CERT_FILE": file,
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	return run()
}

// says returns a handler that answers each call with the given response.
func says(status int, kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	}
}

// refuses returns a handler that answers each call like the service.
func refuses(status int, slug, detail string) http.HandlerFunc {
	return says(status, "application/problem+json", fmt.Sprintf(`{"type":"/errors/%s","title":"-","status":%d,"detail":%q}`, slug, status, detail))
}

func isAhead(by time.Duration, next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		next.ServeHTTP(w, r)
	}
}

func TestCheckNamesTheCause(t *testing.T) {
	service := refuses(404, "unknown-sku", "")
	at := func(h http.Handler) string { return serveHTTP(t, h, nil) }
	port := func(url string) string { return url[strings.LastIndexByte(url, ':'):] }
	trusted := httptest.NewUnstartedServer(service)
	trusted.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail here
	trusted.StartTLS()
	t.Cleanup(trusted.Close)
	strange := serveHTTP(t, service, certificate(t, time.Now().Add(time.Hour)))
	shop := http.NewServeMux()
	shop.Handle("/shop/", http.StripPrefix("/shop", mux(service)))

	for _, tt := range []struct{ name, target, want string }{ // "" is no error
		{"a proxy in the environment", "http://0.0.0.0" + port(at(service)), ""},
		{"a proxy, and a host that does not resolve", "http://nosuch.invalid:8080", "does not resolve: lookup nosuch.invalid"},
		{"a proxy that is ignored", "http://nosuch.invalid:8080", "the attack ignores HTTP_PROXY"},
		{"a path that a proxy removes", at(shop) + "/shop", ""},
		{"a path that does not exist", at(refuses(404, "not-found", "")) + "/shop", "has no path /shop/v1/orders;"},
		{"a 404 of another program", at(http.NotFoundHandler()), "not from the service: 404 Not Found (text/plain)"},
		{"a 404 of another program's API", at(says(404, "application/json", `{"type":"error"}`)), "not from the service: 404 Not Found (application/json)"},
		{"a page", at(says(200, "text/html; charset=utf-8", "<html>")), "not from the service: 200 OK (text/html)"},
		{"a proxy without a service", at(says(502, "text/html", "<html>")), "not from the service: 502 Bad Gateway"},
		{"a redirect", at(redirects("https://shop.example/x")), "a redirect, 301 Moved Permanently to https://shop.example/x, which is not followed; set --target"},
		{"a redirect to a login", at(http.RedirectHandler("https://login.example/?next=shop", http.StatusFound)), "302 Found to https://login.example/?next=shop"},
		{"a trusted certificate", trusted.URL, ""},
		{"another host's certificate", "https://localhost" + port(trusted.URL), "TLS: x509: certificate is valid for example.com"},
		{"an unknown authority", strange, "make this machine trust the service's CA"},
		{"an expired certificate", serveHTTP(t, service, certificate(t, time.Now().Add(-time.Hour))), "certificate has expired"},
		{"http to TLS", "http://127.0.0.1" + port(strange), "use https:// in --target"},
		{"http to TLS that sends no HTTP", "http://" + listen(t, certificate(t, time.Now().Add(time.Hour)), ""), "use https:// in --target"},
		{"https to plain HTTP", "https" + strings.TrimPrefix(at(service), "http"), "use http:// or the TLS port in --target"},
		{"https to a port without HTTP", "https://" + listen(t, nil, "SSH-2.0-x\r\n"), "does not speak TLS"},
		{"http to a port without HTTP", "http://" + listen(t, nil, "SSH-2.0-x\r\n"), "does not speak HTTP; check the port"},
		{"another secret", at(refuses(401, "unauthorized", "The signature does not fit.")), "401 Unauthorized: The signature does not fit; check --jwt-secret"},
		{"a clock ahead", at(isAhead(25*time.Hour, refuses(401, "unauthorized", "The token has expired."))), "has expired; check --jwt-secret; its clock is 25h0m0s ahead"},
		{"a clock behind", at(isAhead(-2*time.Minute, refuses(401, "unauthorized", "The token is not valid yet."))), "its clock is 2m0s behind this machine's"},
		{"too many requests", at(refuses(429, "too-many-requests", "Wait for 3 s.")), "429 Too Many Requests: Wait for 3 s"},
		{"a replica that is not ready", at(says(503, "application/json", `{"status":"not ready","checks":{"etcd":"ok","mysql":"does not answer"}}`)), "not ready: 503 Service Unavailable, mysql: does not answer"},
		{"a service whose orders do not work", at(refuses(503, "unavailable", "Nothing was applied.")), "answers 503 Service Unavailable: Nothing was applied"},
		{"a closed port", closedPort(t), "connection refused"},
		{"silence", at(http.HandlerFunc(hang)), "no answer within "},
		{"silence in the middle of an answer", at(http.HandlerFunc(hangInBody)), "no answer within "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target, err := ParseTarget(tt.target + "/")
			if err != nil {
				t.Fatal(err)
			}
			// Only the calls that hang get a short timeout; an hour is far above the Service's own.
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			if strings.HasPrefix(tt.name, "silence") {
				cancel()
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			}
			defer cancel()
			err = (&Service{URL: target, JWTSecret: secret}).Check(ctx)
			if tt.want == "" && err == nil {
				return
			}
			text := fmt.Sprint(err)
			if tt.want == "" || !strings.Contains(text, tt.want) || !strings.HasPrefix(text, "--target "+target+": ") || strings.Contains(text, "\n") {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
		})
	}
}

func TestTargetIsABaseURL(t *testing.T) {
	for text, want := range map[string]string{
		"http://h": "http://h", "https://h:8443/": "https://h:8443", "http://[::1]:80/shop//": "http://[::1]:80/shop",
		"h:8080": "not of the form", "http://": "not of the form", "http://:8080": "not of the form", "ftp://h": "not of the form", "http://h:x": "not of the form",
		"http://me:secret@h": "remove the user name and password", "http://h/?a=b": "remove the query", "http://h#": "remove the query",
	} {
		got, err := ParseTarget(text)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || err == nil && got != want || strings.Contains(got, "secret") {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// mux serves only the service's own path.
func mux(service http.Handler) *http.ServeMux {
	m := http.NewServeMux()
	m.Handle("/v1/orders", service)
	return m
}

// redirects redirects each call to the same path below base.
func redirects(base string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, base+r.URL.Path, http.StatusMovedPermanently)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func hangInBody(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, "{")
	_ = http.NewResponseController(w).Flush()
	hang(w, r)
}

func serveHTTP(t *testing.T, h http.Handler, cert *tls.Certificate) (url string) {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail here
	t.Cleanup(server.Close)
	if cert == nil {
		server.Start()
	} else {
		server.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
		server.StartTLS()
	}
	return server.URL
}

// listen sends a greeting on each connection, over TLS if there is a certificate, and
// closes it after the first data.
func listen(t *testing.T, cert *tls.Certificate, greeting string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cert != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}})
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, greeting)
				_, _ = conn.Read(make([]byte, 1<<10))
			}()
		}
	}()
	return l.Addr().String()
}

func closedPort(t *testing.T) (url string) {
	server := httptest.NewServer(nil)
	server.Close()
	return server.URL
}

// certificate returns a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T, until time.Time) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: until.Add(-24 * time.Hour), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
