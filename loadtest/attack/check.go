package attack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ParseTarget parses a base URL. It may have a path, if a proxy serves the service below
// one. The result has no slash at its end.
func ParseTarget(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("--target %q is not of the form http://host:port", text)
	case u.User != nil:
		return "", fmt.Errorf("--target %s: remove the user name and password; requests have their own tokens", u.Redacted())
	case strings.ContainsAny(text, "?#"):
		return "", fmt.Errorf("--target %q: remove the query or fragment (? or #)", text)
	}
	return strings.TrimRight(text, "/"), nil
}

// Check checks that the service is ready, and orders a SKU that does not exist: only the
// service itself gives the expected answer. An error says in one line what would make
// an attack meaningless, and names the flag to check.
func (s *Service) Check(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return fmt.Errorf("--target %s: %w", s.URL, err)
	}
	return nil
}

func (s *Service) check(ctx context.Context) error {
	// A proxy may hide /readyz; the answer to the order decides then.
	if ready, err := s.ask(ctx, http.MethodGet, "/readyz", "", nil); err != nil {
		return err
	} else if reason := ready.notReady(); reason != "" {
		return fmt.Errorf("the service is not ready: %s", reason)
	}
	path := "/v1/orders"
	got, err := s.order(ctx, &Order{Customer: "buyer-nobody", Key: "check", SKU: "check-" + uuid.NewString(), Quantity: 1})
	if err != nil {
		return err
	}
	switch {
	case got.problem.is("unknown-sku"):
		return nil
	case got.StatusCode == http.StatusBadRequest && got.Request.URL.Scheme == "http" && speaksTLS(ctx, got.Request.URL):
		return errTLS
	case got.location != "":
		return fmt.Errorf("the answer is a redirect, %s to %s, which is not followed; set --target to the service itself",
			got.Status, strings.TrimSuffix(got.location, path))
	case !got.problem.ours():
		return fmt.Errorf("the answer is not from the service: %s to POST %s; check the host, the port and the path (%s: "+
			"an order for a SKU that does not exist gets a 404 of the type /errors/unknown-sku)", got.described(), got.Request.URL, contract)
	case got.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s; check --jwt-secret%s", got.described(), got.skew())
	case got.problem.is("not-found"):
		return fmt.Errorf("the service has no path %s; remove the path", got.Request.URL.Path)
	}
	return fmt.Errorf("the service answers %s; the check ordered a SKU that does not exist", got.described())
}

// notReady returns why a replica is not ready; "" if it is, or if the answer is not the
// replica's own.
func (a *answer) notReady() string {
	var said struct {
		Status string            `json:"status"`
		Checks map[string]string `json:"checks"`
	}
	if a.StatusCode != http.StatusServiceUnavailable || json.Unmarshal(a.body, &said) != nil || said.Status == "" {
		return ""
	}
	var failed []string
	for _, name := range slices.Sorted(maps.Keys(said.Checks)) {
		if said.Checks[name] != "ok" {
			failed = append(failed, name+": "+said.Checks[name])
		}
	}
	return a.Status + ", " + strings.Join(failed, ", ")
}

// skew describes how far the clocks differ, if that may be why a token is refused.
func (a *answer) skew() string {
	const tolerated = time.Minute
	there, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil {
		return ""
	}
	switch ahead := time.Until(there); {
	case ahead > tolerated:
		return fmt.Sprintf("; its clock is %s ahead of this machine's, so set the clocks first", ahead.Round(tolerated))
	case ahead < -tolerated:
		return fmt.Sprintf("; its clock is %s behind this machine's, so set the clocks first", -ahead.Round(tolerated))
	}
	return ""
}

var errTLS = errors.New("the port speaks TLS; use https:// in --target")

// unreachable says why a request to u has no answer. It returns context.Canceled as it
// is.
func unreachable(ctx context.Context, u *url.URL, sent time.Time, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without method and URL, which the caller adds
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	after := max(time.Since(sent).Round(time.Second), time.Second)
	network, _ := errors.AsType[net.Error](err)
	dial, _ := errors.AsType[*net.OpError](err)
	if noHost, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("the host name does not resolve: %w%s", noHost, direct(u))
	}
	switch {
	case dial != nil && dial.Op == "dial":
		return fmt.Errorf("no connection: %w; check the host and the port%s", err, direct(u))
	case network != nil && network.Timeout():
		return fmt.Errorf("no answer within %s; check the port%s", after, direct(u))
	}
	if other, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("TLS: %w; use a host of the certificate in --target", other)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return fmt.Errorf("TLS: %w; renew the certificate, or set this machine's clock", invalid)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok { // the wrapped error depends on the system
		return fmt.Errorf("TLS: %w; make this machine trust the service's CA (on Linux, set SSL_CERT_FILE)", err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return errors.New("the port does not speak TLS; use http:// or the TLS port in --target")
	}
	if u.Scheme == "http" && speaksTLS(ctx, u) {
		return errTLS
	}
	// The second text is what net/http reports for a server that speaks first.
	if text := err.Error(); strings.Contains(text, "malformed HTTP") || strings.Contains(text, "readLoopPeekFailLocked") {
		return errors.New("the port does not speak HTTP; check the port")
	}
	return fmt.Errorf("no answer: %w; check the port", err)
}

// direct says that the attack uses no proxy, if the environment names one.
func direct(u *url.URL) string {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err == nil && proxy == nil {
		return ""
	}
	return " (the attack ignores HTTP_PROXY and HTTPS_PROXY)"
}

// speaksTLS tries a TLS handshake. It does not check the certificate.
func speaksTLS(ctx context.Context, u *url.URL) bool {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	port := u.Port()
	if port == "" {
		port = "80"
	}
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		_, refused := errors.AsType[tls.AlertError](err)
		return refused // with a TLS alert
	}
	_ = conn.Close() // only the handshake matters
	return true
}
