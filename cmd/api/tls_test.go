package main

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// MySQL and etcd require TLS and a client certificate. A replica that has no valid
// certificate, or cannot verify a server's, does not start.
func TestServersAreReachedByTLS(t *testing.T) {
	t.Parallel()
	ca := sandboxtest.NewAuthority(t)
	own := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1, TLS: ca.Issue("servers", "127.0.0.1")})
	dsn, err := own.MySQL.CreateDatabase(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	us, stranger := ca.Issue("replica"), sandboxtest.NewAuthority(t).Issue("stranger")
	mysql := []string{"--mysql-ca=" + us.CA, "--mysql-cert=" + us.Cert, "--mysql-key=" + us.Key}
	etcd := []string{"--etcd-ca=" + us.CA, "--etcd-cert=" + us.Cert, "--etcd-key=" + us.Key}
	cfg := replicaConfig(dsn, "a", strategy.Default)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	cfg.Args = append(append(cfg.Args, mysql...), etcd...)
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	if status, err := c.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Errorf("an order: got %d, %v; want 201", status, err)
	}

	localhost := func(text string) string { return strings.Replace(text, "127.0.0.1", "localhost", 1) }
	endpoint := own.EtcdEndpoints()[0]
	// The certificate of each of several hosts must have that host's name.
	two := strings.Replace(localhost(dsn), ")", ","+dsn[strings.LastIndexByte(dsn, '(')+1:strings.LastIndexByte(dsn, ')')]+")", 1)
	mustTool(t, append([]string{"audit", "--mysql-dsn=" + two}, mysql...)...)
	for _, test := range []struct {
		name, dsn, etcd string
		args            []string
		want            []string
	}{
		{"MySQL without TLS", dsn, endpoint, etcd, []string{"MySQL at 127.0.0.1", "Access denied"}},
		{"MySQL without a client certificate", dsn, endpoint, append([]string{"--mysql-ca=" + us.CA}, etcd...), []string{"MySQL at 127.0.0.1", "Access denied"}},
		{"MySQL with another CA", dsn, endpoint, append([]string{"--mysql-ca=" + stranger.CA}, etcd...), []string{"MySQL at 127.0.0.1", "unknown authority"}},
		{"MySQL with the system's CAs", dsn + "?tls=true", endpoint, etcd, []string{"MySQL at 127.0.0.1", "unknown authority"}},
		{"MySQL under a name that its certificate lacks", localhost(dsn), endpoint, append(mysql, etcd...), []string{"MySQL at localhost", "localhost"}},
		{"MySQL without verification", dsn + "?tls=skip-verify", endpoint, etcd, []string{"--mysql-dsn", "tls=skip-verify", "--mysql-ca"}},
		{"MySQL with optional TLS", dsn + "?tls=preferred", endpoint, etcd, []string{"--mysql-dsn", "tls=preferred"}},
		{"TLS both in the DSN and in flags", dsn + "?tls=true", endpoint, append(mysql, etcd...), []string{"--mysql-ca", "tls", "mutually exclusive"}},
		{"a certificate without its key", dsn, endpoint, append([]string{"--mysql-ca=" + us.CA, "--mysql-cert=" + us.Cert}, etcd...), []string{"--mysql-cert and --mysql-key must be given together"}},
		{"a certificate without a CA", dsn, endpoint, append(mysql[1:2:2], mysql[2]), []string{"--mysql-ca"}},
		{"a CA file without a certificate", dsn, endpoint, append([]string{"--mysql-ca=" + us.Key}, etcd...), []string{"--mysql-ca", "no PEM certificate"}},
		{"etcd without a client certificate", dsn, endpoint, append([]string{"--etcd-ca=" + us.CA}, mysql...), []string{"etcd at https://127.0.0.1"}},
		{"etcd with another CA", dsn, endpoint, append([]string{"--etcd-ca=" + stranger.CA, etcd[1], etcd[2]}, mysql...), []string{"etcd at https://127.0.0.1"}},
		{"etcd under a name that its certificate lacks", dsn, localhost(endpoint), append(mysql, etcd...), []string{"etcd at https://localhost"}},
		{"etcd without TLS", dsn, strings.Replace(endpoint, "https", "http", 1), mysql, []string{"etcd at http://127.0.0.1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			refused(t, test.want, append([]string{"--mysql-dsn=" + test.dsn, "--etcd-endpoints=" + test.etcd}, test.args...)...)
		})
	}
}

// enableAuth makes etcd require a user and password. The user may read and write only
// keys with the service's prefix.
func enableAuth(t *testing.T, endpoints []string, user, password string) {
	t.Helper()
	mustTool(t, "etcd-auth", "--etcd-endpoints="+strings.Join(endpoints, ","), "--etcd-username="+user, "--etcd-password="+password,
		"--etcd-root-password=the password of root")
}

// A restarted etcd rejects the tokens that it issued before. A replica with an ordinary
// etcd user then requests a new one.
func TestReplicaRenewsItsEtcdToken(t *testing.T) {
	t.Parallel()
	own := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	const user, password = "replica", "the password of the replicas"
	enableAuth(t, own.EtcdEndpoints(), user, password)
	dsn := newDSN(t)
	cfg := replicaConfig(dsn, "a", strategy.Default)
	cfg.EtcdEndpoints = own.EtcdEndpoints()
	cfg.Args = append(cfg.Args, "--etcd-username="+user)
	cfg.Env = append(cfg.Env, "FLASHSALE_ETCD_PASSWORD="+password)
	c := start(t, cfg)
	c.putSKU("lamp", 100)
	c.putSKU("sofa", 100)
	if status, err := c.order("lamp", "ann"); err != nil || status != http.StatusCreated {
		t.Fatalf("an order: got %d, %v; want 201", status, err)
	}
	own.Etcd[0].Kill()
	if err := own.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sku := range []string{"sofa", "lamp"} {
		status, err := c.order(sku, "ben")
		// The first attempts may use a broken connection.
		for deadline := time.Now().Add(time.Minute); status == http.StatusServiceUnavailable && time.Now().Before(deadline); {
			status, err = c.order(sku, "ben")
		}
		if err != nil || status != http.StatusCreated {
			t.Errorf("%s, after a restart of etcd: got %d, %v; want 201", sku, status, err)
		}
	}
	auditOK(t, dsn)
	for name, args := range map[string][]string{
		"no user": {}, "a wrong password": {"--etcd-username=" + user, "--etcd-password=hidden"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, []string{"etcd at "}, append([]string{"--mysql-dsn=" + newDSN(t), "--etcd-endpoints=" + own.EtcdEndpoints()[0]}, args...)...)
		})
	}
}

// The service accepts only TLS 1.2 and later. It uses a renewed certificate without a
// restart.
func TestServiceIsServedByTLS(t *testing.T) {
	t.Parallel()
	ca := sandboxtest.NewAuthority(t)
	files := ca.Issue("service", "127.0.0.1")
	addr := sandboxtest.ReservePort(t)
	cfg := replicaConfig(newDSN(t), "a", "conditional")
	cfg.Args = append(cfg.Args, "--tls-cert="+files.Cert, "--tls-key="+files.Key)
	cfg.Addr, cfg.CA = addr, files.CA
	replica := sandboxtest.StartReplica(t, cfg)
	text, err := os.ReadFile(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)

	// serial returns the serial number of the certificate on a new connection.
	serial := func(least, most uint16) (string, error) {
		dialer := tls.Dialer{Config: &tls.Config{MinVersion: least, MaxVersion: most, RootCAs: pool}}
		conn, err := dialer.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	first, err := serial(tls.VersionTLS12, tls.VersionTLS13)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serial(tls.VersionTLS10, tls.VersionTLS11); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if _, err := serial(tls.VersionTLS12, tls.VersionTLS12); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
	plain, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 64)
	n, _ := plain.Read(answer)
	if got := string(answer[:n]); !strings.HasPrefix(got, "HTTP/1.0 400") {
		t.Errorf("plain HTTP was answered %q", got)
	}

	https := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: answerWithin}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, replica.URL+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := https.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("got %d, headers %v; want 200 and Strict-Transport-Security", response.StatusCode, response.Header)
	}

	healthy := func() error {
		_, err := tool(t, "health", "--addr="+addr, "--tls-cert="+files.Cert, "--health-timeout=10s")
		return err
	}
	if err := healthy(); err != nil {
		t.Error(err)
	}

	ca.Issue("service", "127.0.0.1")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		now, err := serial(tls.VersionTLS12, tls.VersionTLS13)
		if err != nil {
			t.Fatal(err)
		}
		if now != first {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not in use")
		}
	}
	if err := healthy(); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
}
