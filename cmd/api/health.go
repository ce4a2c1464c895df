package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// healthCmd is the health check of an image that has neither a shell nor curl. It
// finds the replica by what `api serve` is configured with.
type healthCmd struct {
	Addr    string        `default:"${addr}" help:"Where the replica listens, as api serve has it: with no address or 0.0.0.0 or [::] it is asked on this machine."`
	TLSCert string        `name:"tls-cert" placeholder:"FILE" help:"The replica's certificate, as api serve has it: it is asked by TLS, and only that certificate is believed."`
	URL     string        `name:"health-url" placeholder:"URL" help:"Ask this in place of what --addr and --tls-cert say; an https URL is checked by the system's CAs. 200 is healthy."`
	Timeout time.Duration `name:"health-timeout" default:"3s" placeholder:"D" help:"Longest wait for the answer (${default})."`
}

// quotedAnswer is how much of a refusal is repeated.
const quotedAnswer = 512

// Run returns an error unless the answer is 200 and comes in time.
func (c *healthCmd) Run(ctx context.Context, s streams) error {
	if c.Timeout <= 0 {
		return fmt.Errorf("--health-timeout is %s, must be positive", c.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, transport, err := c.question(ctx)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return c.explained(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, quotedAnswer)) // only to repeat it
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", request.URL.Redacted(), response.Status, strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(s.out, strings.TrimSpace(string(body)))
	return err
}

// explained says whose certificate was expected.
func (c *healthCmd) explained(err error) error {
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown && c.URL == "" {
		return fmt.Errorf("%w: the replica shows another certificate than that in %s", err, c.TLSCert)
	}
	return err
}

// question is what to ask, and by what. No proxy is asked for it, whatever the
// environment says, and no connection stays open.
func (c *healthCmd) question(ctx context.Context) (request *http.Request, transport *http.Transport, err error) {
	transport = &http.Transport{DisableKeepAlives: true}
	if c.URL != "" {
		if request, err = http.NewRequestWithContext(ctx, http.MethodGet, c.URL, http.NoBody); err != nil {
			return nil, nil, fmt.Errorf("--health-url: %w", err)
		}
		return request, transport, nil
	}
	hosts, port, err := reachable(ctx, c.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("--addr: %w", err)
	}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialFirst(ctx, network, hosts, port)
	}
	ready := url.URL{Scheme: "http", Host: net.JoinHostPort(hosts[0], port), Path: "/readyz"}
	if c.TLSCert != "" {
		ready.Scheme = "https"
		if transport.TLSClientConfig, err = believing(c.TLSCert); err != nil {
			return nil, nil, fmt.Errorf("--tls-cert: %w", err)
		}
	}
	if request, err = http.NewRequestWithContext(ctx, http.MethodGet, ready.String(), http.NoBody); err != nil {
		return nil, nil, fmt.Errorf("--addr: %w", err)
	}
	return request, transport, nil
}

// reachable are the hosts under which a listener of an address is found, and its
// port as a number.
func reachable(ctx context.Context, addr string) (hosts []string, port string, err error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, "", err
	}
	number, err := (&net.Resolver{}).LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, "", err
	}
	if number == 0 {
		return nil, "", fmt.Errorf("%s is any free port: say by --health-url which one it is", addr)
	}
	const v4, v6 = "127.0.0.1", "::1"
	hosts = []string{host}
	switch ip := net.ParseIP(host); {
	case ip.Equal(net.IPv4zero):
		hosts = []string{v4}
	case host == "" || ip.Equal(net.IPv6unspecified):
		// Both families are listened on, but a machine need not have both.
		hosts = []string{v4, v6}
	}
	return hosts, strconv.Itoa(number), nil
}

// dialFirst connects with the first host that can be had. The error is the first
// one's.
func dialFirst(ctx context.Context, network string, hosts []string, port string) (conn net.Conn, err error) {
	var dialer net.Dialer
	for _, host := range hosts {
		tried, failed := dialer.DialContext(ctx, network, net.JoinHostPort(host, port))
		if failed == nil {
			return tried, nil
		}
		err = cmp.Or(err, failed)
	}
	return nil, err
}

// believing trusts the first certificate of a file, which is the one that is shown,
// whoever signed it. It is expected under its own name: who asks calls it by
// another one.
func believing(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	for block != nil && block.Type != "CERTIFICATE" {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	config.RootCAs.AddCert(leaf)
	switch {
	case len(leaf.DNSNames) > 0:
		config.ServerName = strings.Replace(leaf.DNSNames[0], "*", "replica", 1) // a wildcard is nobody's name
	case len(leaf.IPAddresses) > 0:
		config.ServerName = leaf.IPAddresses[0].String()
	}
	return config, nil
}
