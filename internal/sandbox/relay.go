package sandbox

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"
)

// relay forwards TCP connections to an address. Each of its two ways can be cut or
// slowed down like a network between two hosts: no connection is closed by it. It is
// safe for concurrent use.
type relay struct {
	addr   string // to connect to instead of target
	target string
	dial   func(context.Context) (net.Conn, error) // connects to target
	there  way                                     // to the target
	back   way                                     // its answers

	listener net.Listener
	all      sync.WaitGroup
	open     context.Context // ends with close
	end      func()

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// relayQueue bounds the chunks of a connection that wait for the end of their delay.
const relayQueue = 64

// newRelay starts a relay from a free port of host to target. It runs until close.
func newRelay(host, target string) (*relay, error) {
	return startRelay(host, target, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", target) })
}

func startRelay(host, target string, dial func(context.Context) (net.Conn, error)) (*relay, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	r := &relay{addr: listener.Addr().String(), target: target, dial: dial, listener: listener, conns: map[net.Conn]bool{}}
	r.open, r.end = context.WithCancel(context.Background())
	r.all.Go(r.accept)
	return r, nil
}

// close ends the relay and all its connections.
func (r *relay) close() {
	r.end()
	r.listener.Close()
	r.mu.Lock()
	for conn := range r.conns {
		conn.Close()
	}
	r.mu.Unlock()
	r.all.Wait()
}

// way is one direction of a relay.
type way struct {
	mu    sync.Mutex
	cut   chan struct{} // nil unless the way is cut; closed when it is whole again
	delay time.Duration
}

// sever holds back everything that is sent, also the end of a connection.
func (w *way) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut == nil {
		w.cut = make(chan struct{})
	}
}

// slow delays what is sent from now on.
func (w *way) slow(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = by
}

// heal forwards what was held back, as TCP does, and ends the delay.
func (w *way) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut != nil {
		close(w.cut)
	}
	w.cut, w.delay = nil, 0
}

// due returns when that which is sent now arrives, unless the way is cut.
func (w *way) due() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.delay)
}

// pass waits until due, and while the way is cut. It returns false once the relay is
// closed.
func (r *relay) pass(w *way, due time.Time) bool {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.open.Done():
		return false
	}
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut == nil {
		return true
	}
	select {
	case <-cut:
		return true
	case <-r.open.Done():
		return false
	}
}

func (r *relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		r.all.Go(func() { r.carry(near) })
	}
}

// carry delays the first byte also by the handshake, which needs both ways.
func (r *relay) carry(near net.Conn) {
	defer r.track(near)()
	if !r.pass(&r.there, r.there.due()) {
		return
	}
	far, err := r.dial(r.open)
	if err != nil {
		return
	}
	defer r.track(far)()
	if !r.pass(&r.back, r.back.due()) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.copy(far, near, &r.there) })
	both.Go(func() { r.copy(near, far, &r.back) })
	both.Wait()
}

// track remembers a connection. The function that it returns closes the connection.
func (r *relay) track(conn net.Conn) (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[conn] = true
	if r.open.Err() != nil {
		conn.Close() // it came too late for close
	}
	return func() {
		conn.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.conns, conn)
	}
}

// chunk is what one read has returned.
type chunk struct {
	data []byte
	due  time.Time
	last bool // the connection ended after it
}

// copy forwards in one direction until either side ends the connection, and then
// closes it.
func (r *relay) copy(to, from net.Conn, w *way) {
	chunks, done := make(chan chunk, relayQueue), make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			select {
			case chunks <- chunk{slices.Clone(buf[:n]), w.due(), err != nil}:
			case <-done:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for last := false; !last; {
		c := <-chunks
		if !r.pass(w, c.due) {
			break
		}
		_, err := to.Write(c.data)
		last = c.last || err != nil
	}
	to.Close()
	from.Close()
	close(done)
	reader.Wait()
}
