package main

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"flashsale/internal/limit"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// dialFrom connects to a replica from a loopback address. It returns nil if the replica
// has closed the connection at once, else after one answer.
func dialFrom(t *testing.T, r *sandbox.Replica, from string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: patience}
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(r.URL, "http://"))
	if err != nil {
		return nil
	}
	t.Cleanup(func() { _ = conn.Close() })
	w := wire{t, conn}
	if _, err := io.WriteString(w, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return nil
	}
	if _, err := w.Read(make([]byte, 1)); err != nil {
		return nil
	}
	return conn
}

// at returns a client of the replica that calls from a loopback address.
func (c *client) at(address string) *client {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	transport := &http.Transport{DialContext: dialer.DialContext}
	c.t.Cleanup(transport.CloseIdleConnections)
	return &client{t: c.t, Replica: c.Replica, http: http.Client{Timeout: answerWithin, Transport: transport}}
}

// One address holds as many connections as it can; others still get in. A trusted proxy
// has the connections of many callers.
func TestOneAddressCannotTakeAllConnections(t *testing.T) {
	t.Parallel()
	const all, share, proxied = 60, 15, 20
	cfg := replicaConfig(newDSN(t), "a", "conditional")
	cfg.Args = append(cfg.Args, fmt.Sprint("--max-connections=", all), "--max-connections-address=0", "--trusted-proxies=127.0.0.3")
	c := start(t, cfg)
	held := 0
	var last net.Conn
	for range all {
		if conn := dialFrom(t, c.Replica, "127.0.0.1"); conn != nil {
			held, last = held+1, conn
		}
	}
	if held != share {
		t.Errorf("one address holds %d connections, want %d", held, share)
	}
	other := c.at("127.0.0.2")
	if status, text, err := other.call("GET", "/readyz", "", "", ""); err != nil || status != http.StatusOK {
		t.Errorf("another address: %d %s, %v", status, text, err)
	}
	for i := range proxied {
		if dialFrom(t, c.Replica, "127.0.0.3") == nil {
			t.Fatalf("connection %d of a trusted proxy was closed", i)
		}
	}
	if got := total(other.families()["flashsale_http_connections_refused_total"]); got != all-share {
		t.Errorf("%v connections were counted as refused, want %d", got, all-share)
	}
	if !strings.Contains(c.LogTail(50), `"address":"127.0.0.1/32"`) {
		t.Error("the log does not name the address")
	}
	_ = last.Close()
	sandboxtest.Eventually(t, "a closed connection makes room", func() bool { return dialFrom(t, c.Replica, "127.0.0.1") != nil })
}

// Callers from many addresses can take all connections of --addr, but no file that the
// replica needs.
func TestConnectionsLeaveFilesForEverythingElse(t *testing.T) {
	t.Parallel()
	const files = 400
	addr := sandboxtest.ReservePort(t)
	cfg := replicaConfig(newDSN(t), "a", "conditional")
	cfg.Command = []string{"/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" serve "$@"`, files), sandboxtest.Build(t, "api")}
	cfg.Args = append(cfg.Args, "--internal-addr="+addr)
	c := start(t, cfg)
	c.putSKU("lamp", 1)
	for i := range files + 100 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(i%100+1))}}
		conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(c.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		// After an answer, a connection may be idle for minutes.
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	// Each of these needs a new connection.
	inside := &client{t: t, Replica: &sandbox.Replica{URL: "http://" + addr},
		http: http.Client{Timeout: answerWithin, Transport: &http.Transport{DisableKeepAlives: true}}}
	for range 20 {
		status, text, err := inside.call("GET", "/readyz", "", "", "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("readiness inside: %d %s, %v", status, text, err)
		}
	}
}

func TestMostConnectionsFitTheOpenFiles(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		connections, files, want int
	}{
		{20000, math.MaxInt32, 20000}, {20000, 20288, 20000}, {20000, 20287, 19999}, {20000, 1024, 736}, {60, 1024, 60}, {20000, 304, 16}, {20000, 303, 0},
	} {
		c := serveCmd{}
		c.Pool, c.MaxConnections = 32, test.connections
		got, err := c.mostConnections(test.files, slog.New(slog.DiscardHandler))
		if got != test.want || (err != nil) != (test.want == 0) {
			t.Errorf("%d with %d files: got %d, %v; want %d", test.connections, test.files, got, err, test.want)
		}
	}
}

// madeUp is a listener to which connections come from made-up addresses.
type madeUp struct {
	net.Listener
	from chan string
}

// madeUpConn is a connection that counts how often it was closed.
type madeUpConn struct {
	net.Conn
	from   net.TCPAddr
	closed int
}

func (c *madeUpConn) RemoteAddr() net.Addr { return &c.from }
func (c *madeUpConn) Close() error         { c.closed++; return nil }

func (l madeUp) Accept() (net.Conn, error) {
	from, ok := <-l.from
	if !ok {
		return nil, net.ErrClosed
	}
	return &madeUpConn{from: *net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 1))}, nil
}

func newConnectionLimits(tb testing.TB, total, address int) connectionLimits {
	tb.Helper()
	callers, err := limit.NewCallers([]string{"10.0.0.0/8"}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return connectionLimits{total: total, address: address, callers: callers, refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "n"}),
		logger: slog.New(slog.DiscardHandler)}
}

// The addresses of one IPv6 network have one share.
func TestConnectionsOfOneNetworkShareALimit(t *testing.T) {
	t.Parallel()
	under := madeUp{from: make(chan string, 100)}
	l := limitConnections(under, newConnectionLimits(t, 100, 2))
	var open []net.Conn
	// from connects from addresses, and returns the one that is accepted.
	from := func(addresses ...string) string {
		for _, address := range addresses {
			under.from <- address
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		return conn.RemoteAddr().(*net.TCPAddr).IP.String()
	}
	for _, test := range [][]string{
		{"2001:db8:0:1201::1"}, {"2001:db8:0:1202::1"},
		{"2001:db8:0:1203::1", "2001:db8:0:1204::1", "2001:db8:0:1300::1"},
		{"203.0.113.1"}, {"::ffff:203.0.113.1"}, {"203.0.113.1", "203.0.113.2"},
		{"10.1.2.3"}, {"10.1.2.3"}, {"10.1.2.3"},
	} {
		if got, want := from(test...), netip.MustParseAddr(test[len(test)-1]).Unmap().String(); got != want {
			t.Errorf("%q: %s was accepted, want %s", test, got, want)
		}
	}
	for range 2 { // net/http and an event stream may both close a connection
		if err := open[0].Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := from("2001:db8:0:12ff::1"); got != "2001:db8:0:12ff::1" {
		t.Errorf("after one was closed, %s was accepted", got)
	}
	if got := from("2001:db8:0:12ff::1", "203.0.113.9"); got != "203.0.113.9" {
		t.Errorf("a connection that was closed twice made room for two")
	}
	for _, conn := range open {
		_ = conn.Close()
	}
	if len(l.byNetwork) > 0 {
		t.Errorf("all are closed, but %v are remembered", l.byNetwork)
	}
	close(under.from)
	if _, err := l.Accept(); err == nil {
		t.Error("a closed listener accepted a connection")
	}
	if !l.slots.TryAcquire(100) {
		t.Error("not all slots were released")
	}
}

// BenchmarkAccept measures the bookkeeping for a connection.
func BenchmarkAccept(b *testing.B) {
	under := madeUp{from: make(chan string, 1)}
	l := limitConnections(under, newConnectionLimits(b, 100, 50))
	b.ReportAllocs()
	for b.Loop() {
		under.from <- "203.0.113.1"
		conn, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
	}
}
