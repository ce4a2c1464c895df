package forward

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"slices"
	"time"

	"flashsale/internal/rotated"
)

var errNotReplica = errors.New("the certificate is not that of a replica")

// FromSecret returns a Config.TLS for replicas that share a secret. All replicas have
// the same key, which is derived from the secret, and both sides of a link accept only
// that key.
//
// The server rejects a client that does not know the secret at the first message of
// the handshake, before it computes or reveals anything: the client must ask for a
// name that is also derived from the secret. The name is not a credential: anyone who
// can read the traffic sees it, and it does not suffice to open a link.
func FromSecret(secret []byte) (*tls.Config, error) {
	if len(secret) == 0 {
		return nil, errors.New("the secret between replicas is empty")
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "flashsale forward key", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	label, err := hkdf.Key(sha256.New, secret, nil, "flashsale forward name", 16)
	if err != nil {
		return nil, err
	}
	key, name := ed25519.NewKeyFromSeed(seed), hex.EncodeToString(label)
	// Only the key is compared, so the certificate need not expire.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cfg := mutual(func(peer []*x509.Certificate) error {
		if !key.Public().(ed25519.PublicKey).Equal(peer[0].PublicKey) {
			return errNotReplica
		}
		return nil
	})
	cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}
	cfg.ServerName = name
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if subtle.ConstantTimeCompare([]byte(hello.ServerName), []byte(name)) == 0 {
			return nil, errNotReplica
		}
		return nil, nil // continue with cfg
	}
	return cfg, nil
}

// FromFiles returns a Config.TLS for replicas with certificates. cert, with its chain,
// and key are this replica's; ca signed the certificates of all replicas. The files
// are PEM. New links use changed files within about a second.
//
// A peer's certificate must be signed by ca and share a name with ours, a DNS name or
// an address: the CA's certificates for other services do not open links. The dialled
// address need not be in the certificate.
func FromFiles(cert, key, ca string, logger *slog.Logger) (*tls.Config, error) {
	files, err := rotated.Open(logger, func() (identity, error) { return readIdentity(cert, key, ca) }, cert, key, ca)
	if err != nil {
		return nil, err
	}
	cfg := mutual(func(peer []*x509.Certificate) error { return files.Get().verify(peer) })
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return files.Get().pair, nil }
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return files.Get().pair, nil }
	return cfg, nil
}

// mutual is TLS in which both sides send a certificate and verify the other's.
func mutual(verify func(peer []*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// verify replaces the standard checks, which are for a client that dials a name.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
		VerifyConnection:   func(state tls.ConnectionState) error { return verify(state.PeerCertificates) },
		// Links are few and long-lived: resumption would gain nothing.
		SessionTicketsDisabled: true,
	}
}

// identity is the content of a replica's files.
type identity struct {
	pair  *tls.Certificate
	roots *x509.CertPool
}

func readIdentity(cert, key, ca string) (identity, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return identity{}, err
	}
	if len(names(pair.Leaf)) == 0 {
		return identity{}, fmt.Errorf("%s has neither a DNS name nor an IP address: the certificates of all replicas must share one", cert)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return identity{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return identity{}, fmt.Errorf("%s contains no PEM certificate", ca)
	}
	return identity{&pair, roots}, nil
}

func (id identity) verify(peer []*x509.Certificate) error {
	between := x509.NewCertPool()
	for _, c := range peer[1:] {
		between.AddCert(c)
	}
	// Every replica is both client and server.
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := peer[0].Verify(x509.VerifyOptions{Roots: id.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return err
		}
	}
	ours := names(id.pair.Leaf)
	if !slices.ContainsFunc(names(peer[0]), func(name string) bool { return slices.Contains(ours, name) }) {
		return errNotReplica
	}
	return nil
}

// names returns the DNS names and IP addresses of a certificate.
func names(c *x509.Certificate) []string {
	list := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	return list
}
