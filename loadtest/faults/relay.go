package faults

import (
	"net"
	"sync"
)

// Relay forwards TCP connections to an address. It can be cut like a network between
// two hosts: nothing gets through, and no connection is closed. It is safe for
// concurrent use.
type Relay struct {
	// Addr is the address to connect to instead of the target.
	Addr string

	target   string
	listener net.Listener
	all      sync.WaitGroup
	closed   chan struct{}

	mu    sync.Mutex
	whole chan struct{} // closed unless the relay is cut
	conns map[net.Conn]bool
}

// NewRelay starts a relay to target, a host and port. It runs until Close.
func NewRelay(target string) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{
		Addr: listener.Addr().String(), target: target, listener: listener,
		closed: make(chan struct{}), whole: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	close(r.whole)
	r.all.Go(r.accept)
	return r, nil
}

// Cut holds back everything that is sent in either direction, including the end of a
// connection.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.whole = make(chan struct{})
}

// Heal forwards what was held back, as TCP does.
func (r *Relay) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.whole)
}

// Close ends the relay and all its connections.
func (r *Relay) Close() {
	close(r.closed)
	r.listener.Close()
	r.mu.Lock()
	for conn := range r.conns {
		conn.Close()
	}
	r.mu.Unlock()
	r.all.Wait()
}

// pass waits while the relay is cut. It returns false once the relay is closed.
func (r *Relay) pass() bool {
	r.mu.Lock()
	whole := r.whole
	r.mu.Unlock()
	select {
	case <-whole:
		return true
	case <-r.closed:
		return false
	}
}

func (r *Relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.all.Go(func() { r.carry(near) })
	}
}

func (r *Relay) carry(near net.Conn) {
	defer r.track(near)()
	if !r.pass() {
		return
	}
	far, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer r.track(far)()
	var both sync.WaitGroup
	both.Go(func() { r.copy(far, near) })
	both.Go(func() { r.copy(near, far) })
	both.Wait()
}

// track remembers a connection. The function that it returns closes the connection.
func (r *Relay) track(conn net.Conn) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[conn] = true
	return func() {
		conn.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, conn)
	}
}

// copy forwards in one direction until either side ends the connection.
func (r *Relay) copy(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if !r.pass() {
			return
		}
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			from.Close()
			return
		}
	}
}
