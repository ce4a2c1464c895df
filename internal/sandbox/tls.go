package sandbox

import (
	"crypto/tls"
	"fmt"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// TLS are files in PEM. The certificate is for 127.0.0.1, and for clients as well
// as for servers: the sandbox asks its servers whether they are ready.
type TLS struct{ CA, Cert, Key string }

func (t *TLS) info() transport.TLSInfo {
	return transport.TLSInfo{TrustedCAFile: t.CA, CertFile: t.Cert, KeyFile: t.Key}
}

// client is how the sandbox calls its servers; nil for plain text.
func (t *TLS) client() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cfg, err := t.info().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("the servers' certificate: %w", err)
	}
	return cfg, nil
}
