package sandboxtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Link is a proxy to a server whose connections can be cut. It is safe for concurrent
// use.
type Link struct {
	// Addr is where to connect instead of the server's own address.
	Addr string

	target string

	mu    sync.Mutex
	down  bool
	conns []net.Conn

	answers sync.Mutex // locked by Hold
}

// NewLink starts a proxy to the server at target, a host and port. It ends with the
// test.
func NewLink(tb testing.TB, target string) *Link {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	l := &Link{Addr: listener.Addr().String(), target: target}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.carry(conn) })
		}
	})
	tb.Cleanup(func() {
		listener.Close()
		l.Cut()
		all.Wait()
	})
	return l
}

// Hold delays the server's answers until release is called.
func (l *Link) Hold() (release func()) {
	l.answers.Lock()
	return l.answers.Unlock
}

// Cut closes every connection and rejects new ones.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

// Heal accepts connections again.
func (l *Link) Heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

func (l *Link) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	if l.down {
		l.mu.Unlock()
		return
	}
	l.conns = append(l.conns, near, far)
	l.mu.Unlock()
	var both sync.WaitGroup
	forward := func(to io.Writer, from io.Reader) {
		_, _ = io.Copy(to, from) // ends with either side
		near.Close()
		far.Close()
	}
	both.Go(func() { forward(far, near) })
	both.Go(func() { forward(holdable{l, near}, far) })
	both.Wait()
}

// holdable writes the server's answers unless Hold delays them.
type holdable struct {
	link *Link
	io.Writer
}

func (h holdable) Write(b []byte) (int, error) {
	h.link.answers.Lock()
	defer h.link.answers.Unlock()
	return h.Writer.Write(b)
}
