package sandbox

import (
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// Port is a port of 127.0.0.1 that is reserved: the kernel gives it to nobody who
// asks for any port, neither to listen on nor to connect from. A server that asks
// for it by number, with SO_REUSEADDR as they all do, gets it, and gets it again
// after a restart.
//
// A port that was merely found free may be another's before the server that it is
// meant for comes to bind it, or while that server is down.
type Port struct {
	// Addr is the host and port.
	Addr string

	// socket is bound, and does not listen: whoever connects meanwhile is refused.
	// It is closed with the last reference to the Port at the latest.
	socket *os.File
}

// ReservePort reserves a free port, until Close, or until nobody refers to the
// Port any more.
func ReservePort() (*Port, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", os.NewSyscallError("socket", err))
	}
	p := &Port{socket: os.NewFile(uintptr(fd), "reserved port")}
	if p.Addr, err = bindAny(fd); err != nil {
		_ = p.Close() // nothing was bound
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	return p, nil
}

// ReservePorts reserves n free ports.
func ReservePorts(n int) ([]*Port, error) {
	ports := make([]*Port, n)
	for i := range ports {
		var err error
		if ports[i], err = ReservePort(); err != nil {
			return nil, err
		}
	}
	return ports, nil
}

// Close gives the port up.
func (p *Port) Close() error { return p.socket.Close() }

// bindAny binds a socket to a port of the kernel's choice. SO_REUSEADDR has to
// stand on both sockets for a second one to be bound to the same port.
func bindAny(fd int) (addr string, err error) {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return "", os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: loopback.As4()}); err != nil {
		return "", os.NewSyscallError("bind", err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		return "", os.NewSyscallError("getsockname", err)
	}
	inet, ok := bound.(*syscall.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("bound to %T", bound)
	}
	return netip.AddrPortFrom(loopback, uint16(inet.Port)).String(), nil
}
