package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// healthCmd is the health check of an image, which has neither a shell nor curl. It
// uses the configuration of `api serve` to find the replica.
type healthCmd struct {
	Addr         string        `default:"${addr}" help:"Address that the replica listens on, as for api serve. Without a host, or with 0.0.0.0 or [::], this machine is asked."`
	InternalAddr string        `placeholder:"HOST:PORT" help:"The replica's internal address, as for api serve. If set, it is asked by plain HTTP instead of --addr."`
	TLSCert      string        `name:"tls-cert" placeholder:"FILE" help:"The replica's certificate, as for api serve. If set, the replica is asked over TLS; its certificate is not verified."`
	For          string        `name:"health-for" enum:"selling,reading" default:"selling" help:"selling: is the replica ready for orders? reading: is it ready for reads and payments?"`
	URL          string        `name:"health-url" placeholder:"URL" help:"URL to ask instead of --addr, --internal-addr and --tls-cert. The system's CAs verify an https URL. Status 200 means healthy."`
	Timeout      time.Duration `name:"health-timeout" default:"3s" placeholder:"D" help:"Maximum wait for the answer (${default})."`
}

// maxQuote bounds how much of a bad answer is quoted.
const maxQuote = 512

// Run returns an error unless the answer is 200 within the timeout.
func (c *healthCmd) Run(ctx context.Context, s streams) error {
	if c.Timeout <= 0 {
		return fmt.Errorf("--health-timeout is %s, must be positive", c.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	target, transport, err := c.target(ctx)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return fmt.Errorf("--addr, --internal-addr, --health-url: %w", err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxQuote)) // only to quote it
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", request.URL.Redacted(), response.Status, strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(s.out, strings.TrimSpace(string(body)))
	return err
}

// target returns the URL to ask, and a transport that uses no proxy.
func (c *healthCmd) target(ctx context.Context) (string, *http.Transport, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if c.URL != "" {
		return c.URL, transport, nil
	}
	flag, addr, secure := "--addr", c.Addr, c.TLSCert != ""
	if c.InternalAddr != "" {
		flag, addr, secure = "--internal-addr", c.InternalAddr, false
	}
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", flag, err)
	}
	port, err := (&net.Resolver{}).LookupPort(ctx, "tcp", service)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", flag, err)
	}
	if port == 0 {
		return "", nil, fmt.Errorf("%s: %s means any free port: use --health-url", flag, addr)
	}
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		// Without a host or with 0.0.0.0 or ::, Dial connects to 127.0.0.1. A machine
		// may only have the IPv6 loopback address.
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			if v6, v6Err := dialer.DialContext(ctx, "tcp6", addr); v6Err == nil {
				return v6, nil
			}
		}
		return conn, err
	}
	ready := url.URL{Scheme: "http", Host: net.JoinHostPort(cmp.Or(host, "localhost"), strconv.Itoa(port)),
		Path: "/readyz", RawQuery: url.Values{"for": {c.For}}.Encode()}
	if secure {
		ready.Scheme = "https"
		// The certificate file is not used for verification: if a renewed file is
		// invalid, the replica continues with the former one and must not be killed.
		// The query contains no secret and does not leave the machine.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above
	}
	return ready.String(), transport, nil
}
