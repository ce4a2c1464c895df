package main

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/go-sql-driver/mysql"

	"flashsale/internal/mysqlsession"
	"flashsale/internal/rotated"
)

// serverTLSFlags say how we serve by TLS.
type serverTLSFlags struct {
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"Certificate of this service, with its chain: TLS 1.2 and later; plain HTTP without. A changed file is in use within a second."`
	TLSKey  string `name:"tls-key" placeholder:"FILE" help:"Key of --tls-cert."`
}

// serverTLS is nil for plain HTTP.
func (f *serverTLSFlags) serverTLS(logger *slog.Logger) (*tls.Config, error) {
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return nil, errors.New("--tls-cert and --tls-key go together")
	}
	if f.TLSCert == "" {
		return nil, nil
	}
	pair, err := rotated.Open(logger, func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.TLSCert, f.TLSKey)
		return &pair, err
	}, f.TLSCert, f.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.Get(), nil },
	}, nil
}

// mysqlTLSFlags say how MySQL is reached by TLS.
type mysqlTLSFlags struct {
	CA   string `name:"mysql-ca" placeholder:"FILE" help:"CA that signed MySQL's certificate: it is then reached by TLS alone, under the DSN's host name. (A DSN with ?tls=true trusts the system's CAs.)"`
	Cert string `name:"mysql-cert" placeholder:"FILE" help:"Client certificate for MySQL, where it asks for one; with --mysql-ca."`
	Key  string `name:"mysql-key" placeholder:"FILE" help:"Key of --mysql-cert."`
}

// secured is the DSN with what the flags add to it. The driver takes TLS that is
// not the system's by a name alone, which is registered here.
func (f *mysqlTLSFlags) secured(dsn string) (string, error) {
	cfg, err := mysqlsession.Parse(dsn)
	if err != nil {
		if strings.Contains(err.Error(), "unknown config name") {
			return "", errors.New("--mysql-dsn: tls may be true; for a CA of your own use --mysql-ca")
		}
		return dsn, nil // whoever opens it says what is wrong
	}
	switch {
	case cfg.TLSConfig == "skip-verify" || cfg.TLSConfig == "preferred":
		return "", fmt.Errorf("--mysql-dsn: tls=%s does not check who answers: use tls=true or --mysql-ca", cfg.TLSConfig)
	case f.CA == "" && f.Cert == "" && f.Key == "":
		return dsn, nil
	case cfg.TLSConfig != "" && !strings.HasPrefix(cfg.TLSConfig, ownTLS):
		return "", errors.New("--mysql-ca and the DSN's tls exclude each other")
	case f.CA == "" || (f.Cert == "") != (f.Key == ""):
		return "", errors.New("--mysql-cert and --mysql-key go together, and with --mysql-ca")
	}
	secure, err := f.config()
	if err != nil {
		return "", err
	}
	name := sha256.Sum256([]byte(f.CA + "\x00" + f.Cert + "\x00" + f.Key))
	cfg.TLSConfig = ownTLS + hex.EncodeToString(name[:8])
	if err := mysql.RegisterTLSConfig(cfg.TLSConfig, secure); err != nil {
		return "", fmt.Errorf("--mysql-ca: %w", err)
	}
	return cfg.FormatDSN(), nil
}

// ownTLS begins the names of what secured registers.
const ownTLS = "flashsale-"

func (f *mysqlTLSFlags) config() (*tls.Config, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("--mysql-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--mysql-ca: %s has no certificate in PEM", f.CA)
	}
	// The driver sets the server's name to the DSN's host.
	secure := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	if f.Cert == "" {
		return secure, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		return &pair, err
	}
	if _, err := load(); err != nil {
		return nil, fmt.Errorf("--mysql-cert, --mysql-key: %w", err)
	}
	// Read for each connection, of which there are few: they may be rotated.
	secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return secure, nil
}
