package sandbox

import (
	"errors"
	"fmt"
	"net"
)

// FreeAddr returns a loopback address that nobody listens on, and that the
// kernel gives to nobody who asks for any port within the next minute.
//
// A port that was merely listened on and closed may be another's before the
// server that it is meant for comes to bind it. One with a connection in
// TIME_WAIT is not handed out, yet a server that asks for it by number, with
// SO_REUSEADDR as they all do, gets it. The side that closes first has the
// TIME_WAIT, so the accepting side does.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	addr := l.Addr().String()
	client, err := net.Dial("tcp4", addr)
	if err != nil {
		return "", fmt.Errorf("reserve %s: %w", addr, err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		return "", fmt.Errorf("reserve %s: %w", addr, err)
	}
	if err := server.Close(); err != nil {
		return "", fmt.Errorf("reserve %s: %w", addr, err)
	}
	// The end of the stream says that the closing has reached the client.
	if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil {
		return "", fmt.Errorf("reserve %s: %w", addr, errors.New("a stranger connected"))
	}
	return addr, nil
}
