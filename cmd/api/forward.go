package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/google/uuid"

	"flashsale/internal/forward"
	"flashsale/internal/order"
)

// forwardFlags configure the links by which replicas forward orders to the seller of a
// SKU. Only strategy etcd forwards orders.
type forwardFlags struct {
	ForwardAddr      string `placeholder:"ADDR" help:"Address to listen on for other replicas (default: a free port on the address of --addr)."`
	ForwardAdvertise string `placeholder:"HOST:PORT" help:"Address at which other replicas reach --forward-addr (default: that address, or the first non-loopback address of this machine if it names no host)."`
	ForwardSecret    string `exact:"" placeholder:"SECRET" help:"Secret shared by all replicas, at least 32 bytes. Set it by FLASHSALE_FORWARD_SECRET or --config rather than here. Default: derived from --jwt-secret. Required with --jwks, unless --forward-cert is set."`
	ForwardCert      string `placeholder:"FILE" help:"Certificate of this replica for mutual TLS between replicas, instead of a secret. Needs --forward-key and --forward-ca."`
	ForwardKey       string `placeholder:"FILE" help:"Key of --forward-cert."`
	ForwardCA        string `name:"forward-ca" placeholder:"FILE" help:"CA that signed the certificates of all replicas."`
}

// credentials returns the TLS settings of the links.
func (f *forwardFlags) credentials(access *accessFlags, logger *slog.Logger) (*tls.Config, error) {
	if f.ForwardCert != "" || f.ForwardKey != "" || f.ForwardCA != "" {
		if f.ForwardCert == "" || f.ForwardKey == "" || f.ForwardCA == "" {
			return nil, errors.New("--forward-cert, --forward-key and --forward-ca must be given together")
		}
		if f.ForwardSecret != "" {
			return nil, errors.New("--forward-secret and --forward-cert are mutually exclusive")
		}
		config, err := forward.FromFiles(f.ForwardCert, f.ForwardKey, f.ForwardCA, logger)
		if err != nil {
			return nil, fmt.Errorf("--forward-cert, --forward-key, --forward-ca: %w", err)
		}
		return config, nil
	}
	secret := f.ForwardSecret
	if secret == "" {
		secret = access.JWTSecret
	}
	if err := access.checkSecret("--forward-secret (or --jwt-secret, or --forward-cert)", secret); err != nil {
		return nil, err
	}
	return forward.FromSecret([]byte(secret))
}

// forwarding binds the address for forwarded orders. The caller closes the listener, or
// passes it to the order service, which closes it.
func (f *forwardFlags) forwarding(addr, replica string, access *accessFlags, logger *slog.Logger) (*order.Forwarding, error) {
	secure, err := f.credentials(access, logger)
	if err != nil {
		return nil, err
	}
	if f.ForwardAddr == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("--addr: %w", err)
		}
		f.ForwardAddr = net.JoinHostPort(host, "0")
	}
	listener, err := net.Listen("tcp", f.ForwardAddr)
	if err != nil {
		return nil, fmt.Errorf("--forward-addr: %w", err)
	}
	if f.ForwardAdvertise == "" {
		f.ForwardAdvertise = advertised(listener.Addr().(*net.TCPAddr))
	} else if _, _, err := net.SplitHostPort(f.ForwardAdvertise); err != nil {
		return nil, errors.Join(fmt.Errorf("--forward-advertise: %w", err), listener.Close())
	}
	return &order.Forwarding{Config: forward.Config{Process: uuid.NewString(), Replica: replica, TLS: secure}, Listener: listener}, nil
}

// advertised returns the address at which others reach a bound port: for a wildcard,
// the first non-loopback address of this machine.
func advertised(bound *net.TCPAddr) string {
	if !bound.IP.IsUnspecified() {
		return bound.String()
	}
	host := net.IPv4(127, 0, 0, 1)
	addresses, _ := net.InterfaceAddrs() // on an error, only this machine can connect
	for _, a := range addresses {
		if network, ok := a.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			host = network.IP
			break
		}
	}
	return net.JoinHostPort(host.String(), fmt.Sprint(bound.Port))
}
