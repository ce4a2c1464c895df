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

// ParseTarget reads a base URL, whose path, if it has one, goes before that of each
// request: a proxy may have the service there. It ends without a slash.
func ParseTarget(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("--target %q is not of the form http://host:port", text)
	case u.User != nil:
		return "", fmt.Errorf("--target %s: remove the name and the password: requests have tokens of their own", u.Redacted())
	case strings.ContainsAny(text, "?#"):
		return "", fmt.Errorf("--target %q: remove what stands from the ? or # on", text)
	}
	return strings.TrimRight(text, "/"), nil
}

// Check asks whether the service is ready, and for an order that nobody placed:
// only the service itself answers that as it does. An error says in one line what
// would make an attack meaningless, and names the flag to look at.
func (s *Service) Check(ctx context.Context) error {
	if err := s.check(ctx); err != nil {
		return fmt.Errorf("--target %s: %w", s.URL, err)
	}
	return nil
}

func (s *Service) check(ctx context.Context) error {
	// A proxy may keep /readyz in: then the order has to tell.
	if ready, err := s.ask(ctx, http.MethodGet, "/readyz", "", nil); err != nil {
		return err
	} else if reason := ready.notReady(); reason != "" {
		return fmt.Errorf("the service is not ready: %s", reason)
	}
	token, err := Token("buyer-nobody", s.JWTSecret)
	if err != nil {
		return err
	}
	path := "/v1/orders/" + uuid.Must(uuid.NewV7()).String()
	got, err := s.ask(ctx, http.MethodGet, path, token, nil)
	if err != nil {
		return err
	}
	switch {
	case got.problem.is("unknown-order"):
		return nil
	case got.StatusCode == http.StatusBadRequest && got.Request.URL.Scheme == "http" && speaksTLS(ctx, got.Request.URL):
		return errTLS
	case got.location != "":
		return fmt.Errorf("redirects are not followed, and it answers %s, to %s: name in --target where the service itself is",
			got.Status, strings.TrimSuffix(got.location, path))
	case !got.problem.ours():
		return fmt.Errorf("what answers is not the service, or a proxy before it: %s to GET %s; look at the host, the port and the path",
			got.described(), got.Request.URL)
	case got.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%s. Is --jwt-secret the service's?%s", got.described(), got.skew())
	case got.problem.is("not-found"):
		return fmt.Errorf("the service is there, and has no %s: leave the path out", got.Request.URL.Path)
	}
	return fmt.Errorf("the service is there, and answers %s", got.described())
}

// notReady is why a replica does not want to be sent anything; "" where it does,
// or where what answered is not its own word.
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

// skew says how far apart the clocks are, where that may be why a token is refused.
func (a *answer) skew() string {
	const tolerated = time.Minute
	there, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil {
		return ""
	}
	switch ahead := time.Until(there); {
	case ahead > tolerated:
		return fmt.Sprintf(" Its clock is %s ahead of this machine's: set the clocks first.", ahead.Round(tolerated))
	case ahead < -tolerated:
		return fmt.Sprintf(" Its clock is %s behind this machine's: set the clocks first.", -ahead.Round(tolerated))
	}
	return ""
}

var errTLS = errors.New("it speaks TLS there: write https:// in --target")

// unreachable says why a request to u, sent at that time, has no answer. A context
// that was cancelled stays what it is.
func unreachable(ctx context.Context, u *url.URL, sent time.Time, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // the rest is in every line
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	after := max(time.Since(sent).Round(time.Second), time.Second)
	network, _ := errors.AsType[net.Error](err)
	dial, _ := errors.AsType[*net.OpError](err)
	if noHost, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("the host's name does not resolve: %w%s", noHost, direct(u))
	}
	switch {
	case dial != nil && dial.Op == "dial":
		return fmt.Errorf("no connection: %w: does the service listen at this host and port?%s", err, direct(u))
	case network != nil && network.Timeout():
		return fmt.Errorf("no answer in %s: is it the service's port?%s", after, direct(u))
	}
	if other, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("TLS: %w: name in --target a host that the certificate is for", other)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return fmt.Errorf("TLS: %w: renew it, or set this machine's clock", invalid)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok { // each system has errors of its own
		return fmt.Errorf("TLS: %w: have this machine trust the service's CA (on Linux, SSL_CERT_FILE names one)", err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return errors.New("it does not speak TLS there: write http:// in --target, or name the port of TLS")
	}
	if u.Scheme == "http" && speaksTLS(ctx, u) {
		return errTLS
	}
	// The second is net/http's broken text for a server that speaks first.
	if text := err.Error(); strings.Contains(text, "malformed HTTP") || strings.Contains(text, "readLoopPeekFailLocked") {
		return errors.New("what answers does not speak HTTP: is it the service's port?")
	}
	return fmt.Errorf("no answer: %w: is it the service's port?", err)
}

// direct says that no proxy was asked, where the environment names one.
func direct(u *url.URL) string {
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err == nil && proxy == nil {
		return ""
	}
	return " (The attack asks no proxy: HTTP_PROXY and HTTPS_PROXY do not count here.)"
}

// speaksTLS tries a handshake with what did not answer in plain HTTP. Whom it is
// with does not matter.
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
		return refused // in TLS
	}
	_ = conn.Close() // only the handshake counts
	return true
}
