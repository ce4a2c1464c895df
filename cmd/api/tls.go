package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"flashsale/internal/rotated"
)

// serverTLSFlags configure TLS for callers.
type serverTLSFlags struct {
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"Certificate of this service, with its chain; the service then serves TLS 1.2 and later instead of plain HTTP. A changed file is used within a second."`
	TLSKey  string `name:"tls-key" placeholder:"FILE" help:"Key of --tls-cert."`
}

// serverTLS returns nil for plain HTTP.
func (f *serverTLSFlags) serverTLS(logger *slog.Logger) (*tls.Config, error) {
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return nil, errors.New("--tls-cert and --tls-key must be given together")
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
