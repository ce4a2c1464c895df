package forward

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
)

func TestClientsWithoutTheSecretAreRejected(t *testing.T) {
	t.Parallel()
	s := serve(t, config("seller"), newInbox())
	other, err := FromSecret([]byte("another secret"))
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*tls.Config{
		"plain TLS":      {InsecureSkipVerify: true, NextProtos: []string{"h2"}},
		"another secret": other,
	} {
		shown := false
		cfg.InsecureSkipVerify = true
		cfg.VerifyConnection = nil
		cfg.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { shown = true; return nil }
		if conn, err := tls.Dial("tcp", s.peer.Addr, cfg); err == nil {
			_ = conn.Close()
			t.Errorf("%s: the handshake succeeded", name)
		}
		if shown {
			t.Errorf("%s: the server sent its certificate", name)
		}
	}

	conn, err := net.Dial("tcp", s.peer.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(conn) // ends with a reset, maybe
	if len(said) > 7 {          // an alert of TLS
		t.Errorf("plain TCP was answered %q", said)
	}
}

// Anyone on the network can read the name that a client asks for.
func TestNameWithoutTheKeyOpensNoLink(t *testing.T) {
	t.Parallel()
	s := serve(t, config("seller"), newInbox())
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	for what, certificates := range map[string][]tls.Certificate{
		"no certificate":           nil,
		"a certificate of its own": {{Certificate: [][]byte{der}, PrivateKey: private}},
	} {
		conn, err := tls.Dial("tcp", s.peer.Addr, &tls.Config{
			ServerName: config("").TLS.ServerName, InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: certificates,
		})
		if err != nil {
			continue // as good
		}
		defer func() { _ = conn.Close() }()
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: received %d bytes", what, n)
		}
	}
}

// A server with another key gets no orders.
func TestImpostorGetsNoOrder(t *testing.T) {
	t.Parallel()
	in := newInbox()
	other, err := FromSecret([]byte("another secret"))
	if err != nil {
		t.Fatal(err)
	}
	other.GetConfigForClient = nil // takes any name
	other.VerifyConnection = nil   // and any key
	s := serve(t, config("seller").with(func(c *Config) { c.TLS = other }), in)
	ls := newLinks(t, config("buyer"))
	send(t, ls, s.peer, 1).unsent()
	if len(in) != 0 {
		t.Error("the server received an order")
	}
}

func TestFloodOfConnectionsKeepsNoReplicaOut(t *testing.T) {
	t.Parallel()
	s := serve(t, config("seller"), placeAll)
	for range 3 * maxHandshakes { // that say nothing, and stay
		conn, err := net.Dial("tcp", s.peer.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	ls := newLinks(t, config("buyer"))
	send(t, ls, s.peer, 1).answer()
}

func TestReplicasAcceptEachOthersCertificates(t *testing.T) {
	t.Parallel()
	authority := sandboxtest.NewAuthority(t)
	secure := func(a *sandboxtest.Authority, name string, hosts ...string) func(*Config) {
		files := a.Issue(name, hosts...)
		cfg, err := FromFiles(files.Cert, files.Key, authority.CA, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return func(c *Config) { c.TLS = cfg }
	}
	s := serve(t, config("seller").with(secure(authority, "seller", "flashsale.internal", "192.0.2.1")), placeAll)
	order := func(a *sandboxtest.Authority, name string, hosts ...string) *sent {
		return send(t, newLinks(t, config(name).with(secure(a, name, hosts...))), s.peer, 1)
	}
	order(authority, "same-name", "flashsale.internal", "192.0.2.2").answer()
	order(authority, "same-address", "192.0.2.1").answer()
	order(authority, "other-name", "storefront.internal").unsent()
	order(sandboxtest.NewAuthority(t), "other-ca", "flashsale.internal").unsent()

	nameless := authority.Issue("nameless")
	if _, err := FromFiles(nameless.Cert, nameless.Key, authority.CA, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "neither a DNS name nor an IP address") {
		t.Errorf("a certificate without a name: %v", err)
	}
	if _, err := FromSecret(nil); err == nil {
		t.Error("an empty secret was accepted")
	}
}
