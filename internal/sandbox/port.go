package sandbox

import (
	"fmt"
	"net"
	"os"
)

// loopback is the address of every reserved port.
const loopback = "127.0.0.1"

// Port is a reserved port of 127.0.0.1. The kernel assigns it to no other process
// that asks for any free port, to listen or to connect. A server that binds it by
// number with SO_REUSEADDR, as all servers here do, succeeds, also after a restart.
//
// A port that is only found free may be taken before its server binds it, or while
// its server is down.
type Port struct {
	// Addr is the host and port.
	Addr string

	// socket is bound but does not listen: connections are refused. The garbage
	// collector closes it with the Port.
	socket *os.File
}

// ReservePort reserves a free port until Close, or until the Port is garbage.
func ReservePort() (*Port, error) {
	socket, addr, err := bindAny()
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	return &Port{Addr: addr, socket: socket}, nil
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

// Close releases the port.
func (p *Port) Close() error { return p.socket.Close() }

// portOf returns the port of an address that this package has made.
func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
