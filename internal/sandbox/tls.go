package sandbox

import (
	"crypto/tls"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// TLS names files in PEM. The certificate must be valid for servers at 127.0.0.1 and
// for clients: the sandbox is a client of its servers.
type TLS struct{ CA, Cert, Key string }

// client returns the sandbox's TLS settings as a client; nil for plain text.
func (t *TLS) client() (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	cfg, err := clientv3.NewClientConfig(&clientv3.ConfigSpec{Secure: &clientv3.SecureConfig{Cacert: t.CA, Cert: t.Cert, Key: t.Key}}, zap.NewNop())
	if err != nil {
		return nil, fmt.Errorf("the servers' certificate: %w", err)
	}
	return cfg.TLS, nil
}
