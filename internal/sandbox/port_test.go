package sandbox_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
)

func TestReservedPortCanBeBoundByNumber(t *testing.T) {
	addr := sandboxtest.ReservePort(t)
	for range 2 { // a server and its restart
		if conn, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("connect before a server listens: %v, %v", conn, err)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("listen by number: %v", err)
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(conn.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// ipLocalPortRange is IP_LOCAL_PORT_RANGE: the first port and the last, in the
// upper half, that the kernel may choose for a socket (Linux 6.3).
const ipLocalPortRange = 51

// A socket that the kernel may bind only to the reserved port gets no port. On an older
// kernel only a bind by number is tested.
func TestReservedPortIsNeverChosenByTheKernel(t *testing.T) {
	addr := netip.MustParseAddrPort(sandboxtest.ReservePort(t))
	port := int(addr.Port())
	free := listening(syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 0)
	if l, err := free.Listen(t.Context(), "tcp4", addr.String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen without SO_REUSEADDR: %v, %v", l, err)
	}
	only := listening(syscall.IPPROTO_IP, ipLocalPortRange, port<<16|port)
	l, err := only.Listen(t.Context(), "tcp4", netip.AddrPortFrom(addr.Addr(), 0).String())
	if errors.Is(err, syscall.ENOPROTOOPT) {
		return
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen on any port: %v, %v", l, err)
	}
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	connecting := net.Dialer{Control: only.Control}
	if conn, err := connecting.DialContext(t.Context(), "tcp4", server.Addr().String()); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("connect from any port: %v, %v", conn, err)
	}
}

// listening returns a ListenConfig with a socket option.
func listening(level, option, value int) net.ListenConfig {
	return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), level, option, value) })
		return errors.Join(err, set)
	}}
}
