package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"flashsale/internal/forward/wire"
)

// dial connects to the peer and opens the stream. hangUp closes both.
//
// It does not let gRPC connect, which would hide why a connection failed, wait before
// a retry and resolve names in its own way.
func (l *link) dial() (stream wire.Forward_LinkClient, hangUp func(), err error) {
	if l.links.cfg.Dial != nil {
		conn := &heardConn{}
		l.conn.Store(conn)
		return l.links.cfg.Dial(l.ctx, l.peer.Addr, func() { conn.reads.Add(1) })
	}
	raw, err := (&net.Dialer{}).DialContext(l.ctx, "tcp", l.peer.Addr)
	if err != nil {
		return nil, nil, err
	}
	conn := &heardConn{Conn: raw}
	l.conn.Store(conn)
	secure := tls.Client(conn, l.links.cfg.TLS)
	if err := secure.HandshakeContext(l.ctx); err != nil {
		raw.Close()
		return nil, nil, fmt.Errorf("TLS: %w", err)
	}
	client, err := grpc.NewClient("passthrough:///seller", append(clientOptions, grpc.WithContextDialer(once(secure)))...)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	hangUp = func() {
		_ = client.Close()
		raw.Close() // gRPC may never have used it
	}
	if stream, err = wire.NewForwardClient(client).Link(l.ctx); err != nil {
		hangUp()
		return nil, nil, err
	}
	return stream, hangUp, nil
}

// clientOptions have no TLS: the connection that gRPC receives is already secure.
var clientOptions = []grpc.DialOption{
	grpc.WithTransportCredentials(insecure.NewCredentials()),
	grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
	grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
}

// once returns a dialer that returns conn once.
func once(conn net.Conn) func(context.Context, string) (net.Conn, error) {
	var given atomic.Bool
	return func(context.Context, string) (net.Conn, error) {
		if given.Swap(true) {
			return nil, errors.New("the connection has ended")
		}
		return conn, nil
	}
}

// heardConn counts reads on the connection itself, so that silence does not depend on
// when gRPC's goroutines run.
type heardConn struct {
	net.Conn
	reads atomic.Uint64
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.reads.Add(1)
	}
	return n, err
}

// holdsBytes reports whether the kernel holds unread bytes.
func (c *heardConn) holdsBytes() bool {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	holds := false
	_ = raw.Control(func(fd uintptr) { holds = peek(fd) }) // an error leaves it false
	return holds
}
