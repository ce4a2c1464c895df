package compose_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"flashsale/internal/limit"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// patience bounds what should take a moment on a machine that has other things
// to do.
const patience = time.Minute

func haproxy(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("haproxy is not installed: run `scripts/setup --haproxy` or `apt-get install haproxy`")
	return ""
}

// proxy is haproxy.cfg at work, between addresses of this machine.
type proxy struct {
	*sandbox.Process
	url string
	dns *nameServer
}

// edit is a change of haproxy.cfg.
type edit struct{ from, to string }

// lenient is for tests whose replicas never go down: on a busy machine two of their
// answers to checks may be late, and the proxy would refuse a request itself.
var lenient = edit{"inter 500ms fall 2 ", "inter 500ms fall 100 "}

// startProxy runs the proxy before whatever listens on port, and answers its checks on
// internal, of the addresses that its name server is told of.
func startProxy(t *testing.T, port, internal string, edits ...edit) *proxy {
	t.Helper()
	errorFiles, err := filepath.Abs(filepath.Join(root, folder, "errors"))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{dns: startNameServer(t)}
	shop, private := sandboxtest.ReservePort(t), sandboxtest.ReservePort(t)
	text := read(t, folder+"/haproxy.cfg")
	for _, change := range append(edits,
		edit{"nameserver docker 127.0.0.11:53", "nameserver docker " + p.dns.addr},
		edit{"bind :8080", "bind " + shop},
		edit{"bind :8404", "bind " + private},
		edit{"server-template replica 8 api:8080", "server-template replica 8 api:" + port},
		edit{"check port 8081", "check port " + internal},
		edit{"/usr/local/etc/haproxy/errors", errorFiles},
	) {
		if !strings.Contains(text, change.from) {
			t.Fatalf("haproxy.cfg has no %q: this test no longer knows it", change.from)
		}
		text = strings.ReplaceAll(text, change.from, change.to)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.url = "http://" + shop
	p.Process, err = sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
		Name: "haproxy",
		// A warning is an error.
		Argv: []string{haproxy(t), "-dW", "-db", "-f", file},
		Ready: func(ctx context.Context) error {
			status, _, err := get(ctx, "http://"+private+"/metrics")
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("GET /metrics: %d", status)
			}
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the proxy logged last:\n%s", p.LogTail(30))
		}
		p.Kill()
	})
	return p
}

// await asks until the answer has the status.
func (p *proxy) await(t *testing.T, status int) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		got, body, err := get(t.Context(), p.url+"/healthz")
		if err == nil && got == status {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("GET /healthz by the proxy: %d %s %v, want %d", got, body, err, status)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// upstream is a replica that does as it is told.
type upstream struct {
	port   string
	posts  atomic.Int32
	mu     sync.Mutex
	header http.Header // of the last list of SKUs
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	var listening net.ListenConfig
	listener, err := listening.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, u.port, _ = net.SplitHostPort(listener.Addr().String())
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/orders" {
			u.posts.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close() // as a process that is killed in the middle of it
			}
			return
		}
		if r.URL.Path == "/v1/skus" { // and not a proxy's check, which may come at any time
			u.mu.Lock()
			u.header = r.Header.Clone()
			u.mu.Unlock()
		}
		_, _ = io.WriteString(w, "{}")
	})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return u
}

func TestProxyNeverSendsAnOrderTwice(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	p := startProxy(t, u.port, u.port, lenient)
	p.dns.know("127.0.0.1")
	p.await(t, http.StatusOK)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/v1/orders", strings.NewReader(`{"sku":"lamp","quantity":1}`))
	if err != nil {
		t.Fatal(err)
	}
	status, body := do(t, request)
	problem := problemOf(t, body)
	if status != http.StatusGatewayTimeout || problem != "/errors/outcome-unknown" {
		t.Errorf("an order whose answer was lost: %d %s, want 504 outcome-unknown", status, problem)
	}
	if got := u.posts.Load(); got != 1 {
		t.Errorf("the order was sent %d times", got)
	}
}

func TestProxyAnswersAsTheServiceDoes(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	p := startProxy(t, u.port, u.port, lenient)
	check := func(what string, status int, body []byte, wantStatus int, want string) {
		t.Helper()
		if got := problemOf(t, body); status != wantStatus || got != want {
			t.Errorf("%s: %d %s, want %d %s", what, status, got, wantStatus, want)
		}
	}
	status, body, err := get(t.Context(), p.url+"/v1/skus")
	if err != nil {
		t.Fatal(err)
	}
	check("no replica", status, body, http.StatusServiceUnavailable, "/errors/unavailable")
	p.dns.know("127.0.0.1")
	p.await(t, http.StatusOK)
	for _, path := range []string{"/metrics", "/%6detrics", "/metric%73"} {
		if status, body, err = get(t.Context(), p.url+path); err != nil {
			t.Fatal(err)
		}
		if status == http.StatusOK {
			t.Fatalf("%s: a replica's metrics are public", path)
		}
		check(path, status, body, http.StatusNotFound, "/errors/not-found")
	}
	large, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/v1/skus", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	large.Header.Set("X-Large", strings.Repeat("a", 20<<10))
	if status, body = do(t, large); status != http.StatusOK {
		t.Errorf("headers of 20 KiB: %d %s, want a replica to refuse them in its own words", status, body)
	}
	large.Header.Set("X-Large", strings.Repeat("a", 40<<10))
	if status, body = do(t, large); status != http.StatusBadRequest {
		t.Errorf("headers of 40 KiB: %d %s, want 400", status, body)
	}
	if atLeast(t, 3, 3) { // older ones may have words of their own: see haproxy.cfg
		check("headers of 40 KiB", status, body, http.StatusBadRequest, "/errors/malformed-request")
	}
}

// atLeast says whether this machine's HAProxy is of this version or a later one.
func atLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), haproxy(t), "-v").Output()
	if err != nil {
		t.Fatal(err)
	}
	var have [2]int
	if _, err := fmt.Sscanf(string(out), "HAProxy version %d.%d", &have[0], &have[1]); err != nil {
		t.Fatalf("haproxy -v: %q: %v", out, err)
	}
	return have[0] > major || have[0] == major && have[1] >= minor
}

func TestProxyTellsWhoCalls(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	p := startProxy(t, u.port, u.port, lenient)
	p.dns.know("127.0.0.1")
	p.await(t, http.StatusOK)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/v1/skus", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Forwarded-For", "203.0.113.7")
	do(t, request)
	u.mu.Lock()
	defer u.mu.Unlock()
	if got := u.header.Values("X-Forwarded-For"); len(got) != 1 || got[0] != "127.0.0.1" {
		t.Errorf("X-Forwarded-For is %q: what a caller says of itself must not reach a replica", got)
	}
}

// callFrom lists the SKUs from a loopback address, with a line of X-Forwarded-For.
func (p *proxy) callFrom(t *testing.T, address, forwarded string) (status int, body []byte) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	own := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialer.DialContext}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/v1/skus", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if forwarded != "" {
		request.Header.Set("X-Forwarded-For", forwarded)
	}
	response, err := own.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

// caller reads the address of the caller as a replica does that trusts both proxies.
func (u *upstream) caller(t *testing.T) string {
	t.Helper()
	callers, err := limit.NewCallers([]string{"127.0.0.1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return callers.Address(netip.MustParseAddr("127.0.0.1"), u.header.Values("X-Forwarded-For")).String()
}

// A load balancer stands before the proxy. Each customer is still one caller, and cannot
// choose which.
func TestCallersAreKnownBehindTwoProxies(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	inner := startProxy(t, u.port, u.port, lenient, edit{"acl outer src 192.0.2.1", "acl outer src 127.0.0.1"})
	inner.dns.know("127.0.0.1")
	inner.await(t, http.StatusOK)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(inner.url, "http://"))
	outer := startProxy(t, port, port, lenient)
	outer.dns.know("127.0.0.1")
	outer.await(t, http.StatusOK)
	for i := range 40 {
		customer := fmt.Sprintf("127.0.1.%d", i+1)
		if status, body := outer.callFrom(t, customer, "203.0.113.7"); status != http.StatusOK {
			t.Fatalf("%s: %d %s", customer, status, body)
		}
		if got := u.caller(t); got != customer {
			t.Errorf("%s is %s to a replica", customer, got)
		}
	}
	// Not by the load balancer.
	inner.callFrom(t, "127.0.0.9", "203.0.113.7")
	if got := u.caller(t); got != "127.0.0.9" {
		t.Errorf("a caller that passes the load balancer by is %s to a replica", got)
	}
}

// One caller makes as many requests, and holds as many connections, as it can; others
// still get in.
func TestProxyLimitsEachCaller(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	p := startProxy(t, u.port, u.port, lenient, edit{"acl outer src 192.0.2.1", "acl outer src 127.0.0.1"},
		edit{"sc0_conn_cur gt 2000", "sc0_conn_cur gt 20"}, edit{"sc1_http_req_rate gt 2000", "sc1_http_req_rate gt 20"},
		// A window that no slow machine outlasts.
		edit{"expire 10s store http_req_rate(10s)", "expire 1h store http_req_rate(1h)"})
	p.dns.know("127.0.0.1")
	p.await(t, http.StatusOK)
	check := func(from string, forwarded func(i int) string, want int) {
		t.Helper()
		served := 0
		for i := range 30 {
			status, body := p.callFrom(t, from, forwarded(i))
			if status == http.StatusOK {
				served++
			} else if got := problemOf(t, body); status != http.StatusTooManyRequests || got != "/errors/too-many-requests" {
				t.Errorf("%s for %s: %d %s, want 429 too-many-requests", from, forwarded(i), status, got)
			}
		}
		if served != want {
			t.Errorf("%s for %s: %d of 30 requests were served, want %d", from, forwarded(0), served, want)
		}
	}
	check("127.0.0.1", func(i int) string { return fmt.Sprintf("2001:db8:0:12%02x::1", i) }, 20)
	check("127.0.0.1", func(i int) string { return fmt.Sprintf("2001:db8:0:%x00::1", i+0x20) }, 30)
	check("127.0.0.1", func(i int) string { return fmt.Sprintf("198.51.100.%d, 203.0.113.1", i) }, 20)
	check("127.0.0.5", func(i int) string { return fmt.Sprintf("203.0.113.%d", i+10) }, 20)

	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)}}
	held := 0
	for range 60 {
		conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(p.url, "http://"))
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			held++
		}
	}
	if held != 20 {
		t.Errorf("one address holds %d connections, want 20", held)
	}
	if status, body := p.callFrom(t, "127.0.0.8", ""); status != http.StatusOK {
		t.Errorf("another address: %d %s", status, body)
	}
}

// A replica whose lock server is gone sells nothing, and still serves all else.
func TestProxySendsOrdersToReplicasThatSell(t *testing.T) {
	t.Parallel()
	var sells [2]atomic.Bool
	port := "0"
	for i, addr := range []string{"127.0.0.1", "127.0.0.2"} {
		listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(addr, port))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(listener.Addr().String())
		server := &httptest.Server{Listener: listener, Config: &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" && r.FormValue("for") != "reading" && !sells[i].Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(w, addr)
		})}}
		server.Start()
		t.Cleanup(server.Close)
	}
	sells[1].Store(true)
	p := startProxy(t, port, port)
	p.dns.know("127.0.0.1", "127.0.0.2")
	// reaches waits until only such replicas, and each of them, have served the last
	// requests.
	reaches := func(method, path string, want ...string) {
		t.Helper()
		const enough = 12
		var last []string
		for until := time.Now().Add(patience); ; {
			request, err := http.NewRequestWithContext(t.Context(), method, p.url+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			_, body := do(t, request)
			last = append(last, string(body))
			if len(last) > enough {
				last = last[1:]
			}
			served := slices.Compact(slices.Sorted(slices.Values(last)))
			if len(last) == enough && slices.Equal(served, want) {
				return
			}
			if time.Now().After(until) {
				t.Fatalf("%s %s is served by %q, want %q", method, path, served, want)
			}
			time.Sleep(10 * time.Millisecond) // the proxy limits requests
		}
	}
	reaches("GET", "/v1/skus", "127.0.0.1", "127.0.0.2")
	reaches("POST", "/v1/orders/1/payment", "127.0.0.1", "127.0.0.2")
	reaches("POST", "/v1/orders", "127.0.0.2")
	reaches("POST", "/v1/orders/1/cancellation", "127.0.0.2")
	reaches("PUT", "/v1/admin/skus/lamp", "127.0.0.2")
	sells[1].Store(false) // any of them says why
	reaches("POST", "/v1/orders", "127.0.0.1", "127.0.0.2")
}

// nameServer answers as Docker's does: an address for each replica that runs.
type nameServer struct {
	addr string

	mu        sync.Mutex
	addresses []netip.Addr
}

func (n *nameServer) know(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addresses = nil
	for _, a := range addresses {
		n.addresses = append(n.addresses, netip.MustParseAddr(a))
	}
}

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	var listening net.ListenConfig
	conn, err := listening.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{addr: conn.LocalAddr().String()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		query := make([]byte, 4096)
		for {
			size, from, err := conn.ReadFrom(query)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer, err := n.answer(query[:size]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return n
}

func (n *nameServer) answer(query []byte) ([]byte, error) {
	var message dnsmessage.Message
	if err := message.Unpack(query); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	message.Response, message.Additionals = true, nil
	question := message.Questions[0]
	if len(n.addresses) == 0 {
		message.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range n.addresses {
		message.Answers = append(message.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: a.As4()},
		})
	}
	return message.Pack()
}

// client keeps no connections: nobody would close them.
var client = http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

func get(ctx context.Context, url string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

func do(t *testing.T, request *http.Request) (status int, body []byte) {
	t.Helper()
	response, err := client.Do(request)
	// A proxy that refuses a request before all of it has come closes the connection,
	// and its answer may be lost with it: the request is sent again.
	for deadline := time.Now().Add(patience); isCutOff(err) && time.Now().Before(deadline); {
		response, err = client.Do(request)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func isCutOff(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

func problemOf(t *testing.T, body []byte) string {
	t.Helper()
	var problem struct{ Type string }
	if err := json.Unmarshal(body, &problem); err != nil {
		t.Fatalf("%q is no problem: %v", body, err)
	}
	return problem.Type
}
