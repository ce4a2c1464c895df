package sandbox_test

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"flashsale/internal/sandbox"
)

func TestReservedPortIsGivenToWhoeverNamesIt(t *testing.T) {
	addr := reserve(t)
	for range 2 { // a server, and the same again
		if conn, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("before anybody listens: %v, %v", conn, err)
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

// A socket for which the kernel may choose the reserved port alone gets none.
func TestReservedPortIsGivenToNobodyElse(t *testing.T) {
	addr := netip.MustParseAddrPort(reserve(t))
	only := func(_, _ string, c syscall.RawConn) (err error) {
		port := int(addr.Port())
		return errors.Join(c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, port<<16|port)
		}), err)
	}
	listening := net.ListenConfig{Control: only}
	l, err := listening.Listen(t.Context(), "tcp4", netip.AddrPortFrom(addr.Addr(), 0).String())
	if errors.Is(err, syscall.ENOPROTOOPT) {
		t.Skip("this kernel cannot be asked: IP_LOCAL_PORT_RANGE came with Linux 6.3")
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listen on any port: %v, %v", l, err)
	}
	server, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	connecting := net.Dialer{Control: only}
	if conn, err := connecting.DialContext(t.Context(), "tcp4", server.Addr().String()); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("connect from any port: %v, %v", conn, err)
	}
}

func reserve(t *testing.T) (addr string) {
	t.Helper()
	port, err := sandbox.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	return port.Addr
}
