package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"flashsale/internal/order"
)

// gate is where replicas with --stop-before-steps wait before each step. Each stop is a
// connection, which says where the replica is; the end of the connection lets it go on.
type gate struct {
	listener net.Listener
	serving  sync.WaitGroup
	// changed gets a value after each change of the stops.
	changed chan struct{}

	mu     sync.Mutex
	stops  []*stop
	closed bool
}

type stop struct {
	Replica string
	Step    order.Step
	conn    net.Conn
}

// stopSays bounds the wait for a stop's line.
const stopSays = 5 * time.Second

func openGate(ctx context.Context) (*gate, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &gate{listener: l, changed: make(chan struct{}, 1)}
	g.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			g.serving.Go(func() { g.hold(conn) })
		}
	})
	return g, nil
}

func (g *gate) addr() string { return g.listener.Addr().String() }

// hold keeps a stop until either side ends its connection.
func (g *gate) hold(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(stopSays))
	in := bufio.NewReader(conn)
	s := &stop{conn: conn}
	if _, err := fmt.Fscanln(in, &s.Replica, &s.Step); err != nil {
		return // the replica goes on
	}
	_ = conn.SetReadDeadline(time.Time{})
	if !g.add(s) {
		return
	}
	_, _ = in.ReadByte()
	g.remove(s)
}

func (g *gate) add(s *stop) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.stops = append(g.stops, s)
	g.tell()
	return true
}

func (g *gate) remove(s *stop) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stops = slices.DeleteFunc(g.stops, func(other *stop) bool { return other == s })
	g.tell()
}

func (g *gate) tell() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// next returns the stop of a replica that a move ends, or nil. A seller can have two
// stops: before an answer, and before a write for another replica's order. They can arrive
// in either order, so the answer always comes first.
func (g *gate) next(replica string) (next *stop) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.stops {
		if s.Replica == replica && (next == nil || s.Step == order.BeforeAnswer) {
			next = s
		}
	}
	return next
}

// goOn ends a stop.
func (g *gate) goOn(s *stop) {
	g.remove(s)
	_ = s.conn.Close()
}

// close lets all replicas go on, also later.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	stops := slices.Clone(g.stops)
	g.mu.Unlock()
	_ = g.listener.Close()
	for _, s := range stops {
		_ = s.conn.Close()
	}
	g.serving.Wait()
}
