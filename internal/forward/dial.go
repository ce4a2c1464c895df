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

// dial connects to the peer and opens the stream. hangUp ends both.
//
// The connection is made here and handed to gRPC, which would hide why it failed,
// wait before it tries again, and resolve names in its own way.
func (l *link) dial() (stream wire.Forward_LinkClient, hangUp func(), err error) {
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
		raw.Close() // which gRPC may never have asked for
	}
	if stream, err = wire.NewForwardClient(client).Link(l.ctx); err != nil {
		hangUp()
		return nil, nil, err
	}
	return stream, hangUp, nil
}

// clientOptions are a link's. Its connection is secure before gRPC gets it.
var clientOptions = []grpc.DialOption{
	grpc.WithTransportCredentials(insecure.NewCredentials()),
	grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(),
	grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
}

// once is a dialer that has one connection to give.
func once(conn net.Conn) func(context.Context, string) (net.Conn, error) {
	var given atomic.Bool
	return func(context.Context, string) (net.Conn, error) {
		if given.Swap(true) {
			return nil, errors.New("the connection has ended")
		}
		return conn, nil
	}
}

// heardConn counts reads, so that silence is what the network says and does not
// depend on when a goroutine above it runs.
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

// holdsBytes says whether there is something that was not read yet.
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
