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

var errNotReplica = errors.New("the certificate is not a replica's")

// FromSecret returns what Config.TLS needs where all replicas share a secret. All
// have the same key, derived from it, and both sides of a link take that key alone.
//
// A client that does not know the secret is refused by the first message of its
// handshake, before the server computes or shows anything: the client must ask for a
// name that is also derived from the secret. The name is no credential: anyone on the
// network's path can read it, and it opens no link.
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
	// Only the key is compared. A certificate that expires would only be a way to fail.
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
		return nil, nil // go on with cfg
	}
	return cfg, nil
}

// FromFiles returns what Config.TLS needs where replicas have certificates. cert and
// key are this replica's, with its chain; ca signed those of all replicas. All are
// PEM, and changed files are in use for new links within about a second.
//
// A peer's certificate must share a name with ours (a DNS name or an address),
// besides being signed by ca: certificates of the same CA for other services open no
// link. The address that is dialled need not be in the certificate.
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

// mutual is TLS in which both sides show a certificate and verify the other's.
func mutual(verify func(peer []*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// The standard checks are for a client that dials a name, and are replaced by
		// verify on both sides.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
		VerifyConnection:   func(state tls.ConnectionState) error { return verify(state.PeerCertificates) },
		// Links are few and long: nothing is gained by resuming a session.
		SessionTicketsDisabled: true,
	}
}

// identity is what the files of a replica hold.
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
		return identity{}, fmt.Errorf("%s has neither a DNS name nor an address: replicas know each other by one that they share", cert)
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return identity{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return identity{}, fmt.Errorf("%s has no certificate in PEM", ca)
	}
	return identity{&pair, roots}, nil
}

func (id identity) verify(peer []*x509.Certificate) error {
	between := x509.NewCertPool()
	for _, c := range peer[1:] {
		between.AddCert(c)
	}
	// Every replica is a client as well as a server, and its certificate for both.
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

// names are those that a certificate is for.
func names(c *x509.Certificate) []string {
	list := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	return list
}
