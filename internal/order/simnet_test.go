package order

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"flashsale/internal/forward"
	"flashsale/internal/forward/wire"
	"flashsale/internal/lock"
	"flashsale/internal/sleep"
	"flashsale/internal/strategy"
)

// simNode is the place of a replica: an address, and the ways to all others.
type simNode struct {
	s      *sim
	name   string
	ways   map[string]*way // to mysql, etcd, buyers, and to other nodes by name
	starts int

	// running is shut while the process stands still: nothing leaves it, and nothing
	// reaches it. Its timers go on, as if every system call blocked.
	running *way

	mu      sync.Mutex
	process *simProcess // nil while there is none
}

// simProcess is one run of a replica.
type simProcess struct {
	node    *simNode
	name    string
	dead    chan struct{} // closed when it crashes
	service *Service
	locker  *simLocker
}

func (n *simNode) current() *simProcess {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

func (n *simNode) set(p *simProcess) (before *simProcess) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before, n.process = n.process, p
	return before
}

var simMetrics = NewMetrics(nil) // of all runs: making them costs more than most of a run

// start starts a process.
func (n *simNode) start() {
	n.starts++
	p := &simProcess{node: n, name: fmt.Sprint(n.name, "#", n.starts), dead: make(chan struct{})}
	p.locker = newSimLocker(p)
	row, err := strategy.Find("etcd")
	if err != nil {
		panic(err)
	}
	p.service = New(Config{
		database: simClient{n.s.mysql, p}, Strategy: row, Fence: strategy.FenceClaim, Locker: p.locker,
		PaymentWindow: simWindow, MaxUnpaid: n.s.maxUnpaid(), RequestTimeout: simRequest, Desk: DeskConfig{Idle: time.Second, MaxBatch: 8},
		Forwarding: &Forwarding{Config: forward.Config{Process: p.name, Replica: n.name, Dial: p.dial}, Listener: &simListener{closed: make(chan struct{})}},
		Metrics:    simMetrics, Logger: simLogger(n.s, p), yield: p.yield,
	})
	n.s.log("%s starts", p.name)
	n.set(p)
}

const simStep = 400 * time.Microsecond // so long that few instants coincide

// yield stops a goroutine of the product for a moment, or for as long as the process
// stands still.
func (p *simProcess) yield(ctx context.Context, sku string) {
	c := p.node.s.chance(p.name + "yield" + sku + callerOf(ctx))
	select {
	case <-time.After(c.delay(simStep)):
	case <-p.dead:
		return
	}
	c.pass(p.dead, p.node.running)
}

// crash ends a process at once. What it still does reaches nobody.
func (n *simNode) crash() bool {
	p := n.set(nil)
	if p == nil {
		return false
	}
	n.s.log("%s crashes", p.name)
	close(p.dead)
	n.s.background.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.service.Close(ctx)
		_ = p.locker.Close(ctx)
	})
	return true
}

// drain ends a process in order.
func (p *simProcess) drain() error {
	p.node.s.log("%s drains", p.name)
	ctx, cancel := context.WithTimeout(context.Background(), 2*simRequest)
	defer cancel()
	err := p.service.Close(ctx)
	_ = p.locker.Close(ctx)
	p.node.s.log("%s ended: %v", p.name, err)
	return err
}

// dial opens a stream to the process at an address.
func (p *simProcess) dial(ctx context.Context, addr string, heard func()) (wire.Forward_LinkClient, func(), error) {
	s := p.node.s
	c := s.chance(p.name + "dial" + addr)
	link := p.node.ways[addr]
	if isClosed(p.dead) || !c.pass(ctx.Done(), p.node.running, link) {
		return nil, nil, errSimReset
	}
	if err := sleep.For(ctx, c.delay(simTrip)); err != nil {
		return nil, nil, err
	}
	peer := s.node(addr).current()
	if peer == nil {
		return nil, nil, fmt.Errorf("dial %s: %w", addr, syscall.ECONNREFUSED)
	}
	name := fmt.Sprint(p.name, ">", peer.name, " ", s.now().Nanoseconds())
	there, back := newPipe[*wire.ToSeller](p, peer, link, name+" there"), newPipe[*wire.FromSeller](peer, p, link, name+" back")
	server := &simServerStream{in: there, out: back}
	s.background.Go(func() {
		hello, err := there.receive(context.Background())
		if err == nil && peer.node.current() == peer { // a server that closes takes no new stream
			server.hello = hello
			err = peer.service.seller.(*desks).server.Link(server)
		}
		back.end(cmp.Or(err, io.EOF))
		there.end(errSimReset)
	})
	hangUp := func() { there.end(errSimReset); back.end(errSimReset) }
	s.mu.Lock()
	s.links = append(s.links, simLink{p.node, peer.node, hangUp})
	s.mu.Unlock()
	return &simClientStream{ctx: ctx, out: there, in: back, heard: heard}, hangUp, nil
}

// simLink is a stream, which may have ended.
type simLink struct {
	from, to *simNode
	reset    func()
}

// resetLinks ends the streams of a node, as something between replicas might.
func (n *simNode) resetLinks() {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	for _, l := range n.s.links {
		if l.from == n || l.to == n {
			l.reset()
		}
	}
}

// pipe is one direction of a stream. Its messages arrive in order.
type pipe[T any] struct {
	s        *sim
	from, to *simProcess
	link     *way
	name     string
	changed  chan struct{} // of size one, for the one reader

	mu    sync.Mutex
	queue []parcel[T]
	last  parcel[T]
	err   error // why it has ended, for the reader after what was sent before
	until time.Time
}

type parcel[T any] struct {
	message  T
	sent, at time.Time
}

func newPipe[T any](from, to *simProcess, link *way, name string) *pipe[T] {
	return &pipe[T]{s: from.node.s, from: from, to: to, link: link, name: name, changed: make(chan struct{}, 1)}
}

// send never blocks. Messages that are sent at the same moment arrive at the same moment.
func (p *pipe[T]) send(m T) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil || isClosed(p.from.dead) {
		return errSimReset
	}
	now := time.Now()
	next := parcel[T]{m, now, now.Add(p.s.chance(p.name).delay(simTrip))}
	if !next.at.After(p.last.at) {
		next.at = p.last.at
		if p.last.sent != now {
			next.at = next.at.Add(1)
		}
	}
	p.queue, p.last = append(p.queue, next), next
	p.kick()
	return nil
}

func (p *pipe[T]) kick() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *pipe[T]) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err, p.until = err, time.Now().Add(p.s.chance(p.name+"end").delay(simTrip))
		if p.until.Before(p.last.at) {
			p.until = p.last.at.Add(1)
		}
		p.kick()
	}
}

// receive waits for the next message, until the pipe or ctx ends.
func (p *pipe[T]) receive(ctx context.Context) (m T, err error) {
	for {
		p.mu.Lock()
		var due time.Time
		switch {
		case len(p.queue) > 0:
			due = p.queue[0].at
		case p.err != nil:
			due = p.until
		}
		p.mu.Unlock()
		if !due.IsZero() && !due.After(time.Now()) {
			c := p.s.chance(p.name + "heal")
			if !c.pass(anyOf(ctx, p.to), p.from.node.running, p.link, p.to.node.running) {
				return m, errSimReset
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.queue) == 0 {
				return m, p.err
			}
			m = p.queue[0].message
			p.queue = p.queue[1:]
			return m, nil
		}
		var wait <-chan time.Time
		if !due.IsZero() {
			wait = time.After(time.Until(due))
		}
		select {
		case <-wait:
		case <-p.changed:
		case <-ctx.Done():
			return m, ctx.Err()
		case <-p.to.dead:
			return m, errSimReset
		case <-p.from.dead:
			// The system resets the connection, if it can.
			c := p.s.chance(p.name + "reset")
			if sleep.For(ctx, c.delay(simTrip)) != nil || !c.pass(anyOf(ctx, p.to), p.link) {
				return m, errSimReset
			}
			return m, errSimReset
		}
	}
}

// anyOf is closed when ctx ends. A process that crashes ends the contexts of its links.
func anyOf(ctx context.Context, p *simProcess) <-chan struct{} {
	if ctx.Done() != nil {
		return ctx.Done()
	}
	return p.dead
}

type simClientStream struct {
	wire.Forward_LinkClient
	ctx   context.Context
	out   *pipe[*wire.ToSeller]
	in    *pipe[*wire.FromSeller]
	heard func()
}

func (st *simClientStream) Send(m *wire.ToSeller) error {
	return st.out.send(&wire.ToSeller{Hello: m.Hello, Orders: slices.Clone(m.Orders)})
}

func (st *simClientStream) Recv() (*wire.FromSeller, error) {
	m, err := st.in.receive(st.ctx)
	if err == nil {
		st.heard()
	}
	return m, err
}

type simServerStream struct {
	wire.Forward_LinkServer
	hello *wire.ToSeller // the first message
	in    *pipe[*wire.ToSeller]
	out   *pipe[*wire.FromSeller]
}

func (st *simServerStream) Send(m *wire.FromSeller) error {
	return st.out.send(&wire.FromSeller{Hello: m.Hello, Answers: slices.Clone(m.Answers)})
}

func (st *simServerStream) Recv() (*wire.ToSeller, error) {
	if hello := st.hello; hello != nil {
		st.hello = nil
		return hello, nil
	}
	return st.in.receive(context.Background())
}

// simListener accepts nothing: streams do not come through it.
type simListener struct {
	once   sync.Once
	closed chan struct{}
}

func (l *simListener) Accept() (net.Conn, error) { <-l.closed; return nil, net.ErrClosed }
func (l *simListener) Addr() net.Addr            { return &net.TCPAddr{} }
func (l *simListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// simLogger makes an error of the log a violation.
func simLogger(s *sim, p *simProcess) *slog.Logger { return slog.New(&simLog{s: s, p: p}) }

type simLog struct {
	slog.Handler
	s *sim
	p *simProcess
}

func (l *simLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l *simLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			text += ": " + a.Value.String()
		}
		return true
	})
	if r.Level >= slog.LevelError || strings.Contains(text, "panic") {
		l.s.violated("%s: %s", l.p.name, text)
	}
	return nil
}

var (
	_ lock.Locker = (*simLocker)(nil)
	_ lock.Viewer = (*simLocker)(nil)
)
