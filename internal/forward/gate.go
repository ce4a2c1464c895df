package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
)

// maxHandshakes bounds the handshakes at the same time. In a flood the oldest is closed
// to make room: a replica completes its handshake before that many others arrive.
const maxHandshakes = 64

// gate is a listener that returns connections after their TLS handshake. gRPC's own
// handshakes are not sufficiently bounded in number and time.
type gate struct {
	net.Listener
	cfg    Config
	passed chan passed
	closed chan struct{}
	close  func() error
	all    *sync.WaitGroup

	mu      sync.Mutex
	shaking []net.Conn // the oldest first
}

type passed struct {
	conn net.Conn
	err  error
}

// newGate accepts connections from l until Close. It adds its goroutines to all.
func newGate(l net.Listener, cfg Config, all *sync.WaitGroup) *gate {
	g := &gate{Listener: l, cfg: cfg, passed: make(chan passed), closed: make(chan struct{}), all: all}
	g.close = sync.OnceValue(func() error {
		close(g.closed)
		return l.Close()
	})
	all.Go(g.run)
	return g
}

// Accept returns the next connection that has completed its handshake.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case p := <-g.passed:
		return p.conn, p.err
	case <-g.closed:
		return nil, net.ErrClosed
	}
}

// Close closes the listener and the connections in their handshake.
func (g *gate) Close() error { return g.close() }

func (g *gate) run() {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			// gRPC pauses after a temporary error; pass waits until gRPC accepts again.
			g.pass(passed{err: err})
			if errors.Is(err, net.ErrClosed) {
				break
			}
			continue
		}
		g.enter(conn)
		g.all.Go(func() { g.shake(conn) })
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.shaking {
		conn.Close()
	}
}

func (g *gate) enter(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.shaking) == maxHandshakes {
		g.shaking[0].Close()
		g.shaking = slices.Delete(g.shaking, 0, 1)
	}
	g.shaking = append(g.shaking, conn)
}

func (g *gate) shake(conn net.Conn) {
	secure := tls.Server(conn, g.cfg.TLS)
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	err := secure.HandshakeContext(ctx)
	cancel()
	g.mu.Lock()
	if at := slices.Index(g.shaking, conn); at >= 0 {
		g.shaking = slices.Delete(g.shaking, at, at+1)
	}
	g.mu.Unlock()
	if err != nil {
		// Not a warning, by which a stranger could fill the log. A replica with a wrong
		// secret logs a warning itself.
		g.cfg.Logger.Debug("rejected a connection between replicas", "addr", conn.RemoteAddr().String(), "error", err)
		conn.Close()
		return
	}
	if !g.pass(passed{conn: secure}) {
		conn.Close()
	}
}

func (g *gate) pass(p passed) bool {
	select {
	case g.passed <- p:
		return true
	case <-g.closed:
		return false
	}
}
