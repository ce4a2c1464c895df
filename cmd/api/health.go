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

// healthCmd is the health check of an image that has neither a shell nor curl. It
// finds the replica by what `api serve` is configured with.
type healthCmd struct {
	Addr    string        `default:"${addr}" help:"Where the replica listens, as api serve has it: with no address or 0.0.0.0 or [::] it is asked on this machine."`
	TLSCert string        `name:"tls-cert" placeholder:"FILE" help:"The replica's certificate, as api serve has it: it is asked by TLS, whatever certificate it then shows."`
	For     string        `name:"health-for" enum:"selling,reading" default:"selling" help:"selling: can it take orders? reading: can it answer reads and take payments?"`
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
		return err
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, quotedAnswer)) // only to repeat it
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", request.URL.Redacted(), response.Status, strings.TrimSpace(string(body)))
	}
	_, err = fmt.Fprintln(s.out, strings.TrimSpace(string(body)))
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
	ready := url.URL{Scheme: "http", Host: net.JoinHostPort(hosts[0], port), Path: "/readyz", RawQuery: url.Values{"for": {c.For}}.Encode()}
	if c.TLSCert != "" {
		ready.Scheme = "https"
		// It is this machine's own replica, and is told and tells nothing secret. The
		// file is no measure: the replica goes on with the old pair where a renewed
		// one cannot be used, and must not be ended for it.
		transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // see above
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
