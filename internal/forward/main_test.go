package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"flashsale/internal/forward/wire"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

func TestMain(m *testing.M) {
	if process := os.Getenv(childProcess); process != "" {
		runChild(process)
		return
	}
	leaks.Main(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

var secret = []byte("a secret between the replicas of a test")

// config returns the Config of a process.
func config(process string) Config {
	secure, err := FromSecret(secret)
	if err != nil {
		panic(err)
	}
	return Config{Process: process, Replica: "replica of " + process, TLS: secure, Observer: noObserver{}, Logger: slog.New(slog.DiscardHandler)}
}

type noObserver struct{}

func (noObserver) Silent(Peer, int, []Waiting) {}
func (noObserver) Revived(Peer)                {}
func (noObserver) Dead(Peer, []Waiting)        {}

// seller is a running Server.
type seller struct {
	*Server
	peer  Peer
	close func()
}

// serve runs a Server that ends with the test.
func serve(tb testing.TB, cfg Config, r Receiver) *seller {
	tb.Helper()
	return serveOn(tb, listen(tb), cfg, r)
}

// listen listens on a port until the test ends. Until a server accepts there, the kernel
// accepts connections on which nothing is sent.
func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func serveOn(tb testing.TB, l net.Listener, cfg Config, r Receiver) *seller {
	tb.Helper()
	s := &seller{Server: NewServer(cfg, r), peer: Peer{l.Addr().String(), cfg.Process}}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	s.close = sync.OnceFunc(func() {
		closeNow(tb, s.Server)
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	tb.Cleanup(s.close)
	return s
}

// newLinks returns Links that end with the test.
func newLinks(tb testing.TB, cfg Config) *Links {
	tb.Helper()
	ls := NewLinks(cfg)
	tb.Cleanup(func() { closeNow(tb, ls) })
	return ls
}

func closeNow(tb testing.TB, c interface{ Close(context.Context) error }) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		tb.Errorf("close %T: %v", c, err)
	}
}

// receiverFunc is a Receiver.
type receiverFunc func(from *Source, orders []*Order)

func (f receiverFunc) Receive(from *Source, orders []*Order) { f(from, orders) }

// placeAll answers each order at once.
var placeAll = receiverFunc(func(from *Source, orders []*Order) {
	for _, o := range orders {
		from.Answer(place(o))
	}
})

func place(o *Order) *Answer {
	return &Answer{Number: o.Number, Outcome: wire.Outcome_PLACED, Quantity: o.Quantity}
}

// received has the orders of one message.
type received struct {
	from   *Source
	orders []*Order
}

// inbox is a Receiver that passes orders to the test.
type inbox chan received

func newInbox() inbox { return make(inbox, 100) }

func (in inbox) Receive(from *Source, orders []*Order) { in <- received{from, orders} }

// outcome is the result that Send passed to done.
type outcome struct {
	answer *Answer
	err    error
}

// sent is an order under way. It fails the test if its done is called twice.
type sent struct {
	tb     testing.TB
	result chan outcome
}

// send puts an order for quantity units of "sku" on the link to p.
func send(tb testing.TB, ls *Links, p Peer, quantity int32) *sent {
	tb.Helper()
	s, err := trySend(tb, ls, p, quantity)
	if err != nil {
		tb.Fatalf("send: %v", err)
	}
	return s
}

func trySend(tb testing.TB, ls *Links, p Peer, quantity int32) (*sent, error) {
	s := &sent{tb, make(chan outcome, 1)}
	return s, ls.Send(p, &Order{Sku: "sku", Token: 7, Quantity: quantity}, func(a *Answer, err error) {
		select {
		case s.result <- outcome{a, err}:
		default:
			tb.Errorf("done was called a second time for the order of %d units: %v, %v", quantity, a, err)
		}
	})
}

// answer waits for the answer. The result stays in the channel, so that a second call
// of done fails the test.
func (s *sent) answer() *Answer {
	s.tb.Helper()
	o := s.wait()
	if o.err != nil {
		s.tb.Fatalf("got %v, want an answer", o.err)
	}
	return o.answer
}

// broken waits for ErrBroken.
func (s *sent) broken() {
	s.tb.Helper()
	if o := s.wait(); !errors.Is(o.err, ErrBroken) {
		s.tb.Fatalf("got %v, %v; want ErrBroken", o.answer, o.err)
	}
}

// unsent waits for ErrNoLink: the link never came up.
func (s *sent) unsent() {
	s.tb.Helper()
	if o := s.wait(); !errors.Is(o.err, ErrNoLink) {
		s.tb.Fatalf("got %v, %v; want ErrNoLink", o.answer, o.err)
	}
}

func (s *sent) wait() outcome {
	s.tb.Helper()
	o := next(s.tb, "the result of an order", s.result)
	s.result <- o
	return o
}

// next returns the next value of c.
func next[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		tb.Fatalf("waited for %s in vain", what)
		panic("not reached")
	}
}

// observed is an Observer that passes each report to the test, as text.
type observed chan string

func newObserved() observed { return make(observed, 2000) }

func (o observed) Silent(_ Peer, ticks int, waiting []Waiting) {
	o <- fmt.Sprintf("silent %d %v", ticks, waiting)
}
func (o observed) Revived(Peer)                   { o <- "revived" }
func (o observed) Dead(_ Peer, waiting []Waiting) { o <- fmt.Sprintf("dead %v", waiting) }

// none fails the test if there is a report.
func (o observed) none(tb testing.TB) {
	tb.Helper()
	select {
	case got := <-o:
		tb.Errorf("the observer received %q, want nothing", got)
	default:
	}
}

// manual is a clock that advances only by add, and never ticks.
type manual struct {
	mu sync.Mutex
	at time.Time
}

func newManual() *manual { return &manual{at: time.Now()} }

func (m *manual) clock() clock {
	return clock{now: m.now, ticker: func(time.Duration) (<-chan time.Time, func()) { return nil, func() {} }}
}

func (m *manual) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *manual) add(d time.Duration) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = m.at.Add(d)
	return m.at
}

// noHeartbeats makes a seller send no heartbeats.
func noHeartbeats(c *Config) { c.clock = newManual().clock() }

// with returns a changed copy of cfg.
func (cfg Config) with(change func(*Config)) Config {
	change(&cfg)
	return cfg
}

// linkOf returns the current link to p.
func linkOf(ls *Links, p Peer) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.peers[p].link
}
