package sandbox

import (
	"fmt"
	"os"
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

// Close gives the port up.
func (p *Port) Close() error { return p.socket.Close() }
