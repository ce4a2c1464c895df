package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flashsale/internal/forward/wire"
)

func TestMain(m *testing.M) {
	if process := os.Getenv(childProcess); process != "" {
		runChild(process)
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

var secret = []byte("a secret between the replicas of a test")

// config is one for process, whose name is also its replica's.
func config(process string) Config {
	secure, err := FromSecret(secret)
	if err != nil {
		panic(err)
	}
	return Config{Process: process, Replica: "replica of " + process, TLS: secure}
}

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

// listen listens on a port that ends with the test. Until somebody accepts there,
// the kernel takes connections on which nothing is ever said.
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

// received are orders that came in one message.
type received struct {
	from   *Source
	orders []*Order
}

// inbox is a Receiver that leaves what comes to the test.
type inbox chan received

func newInbox() inbox { return make(inbox, 100) }

func (in inbox) Receive(from *Source, orders []*Order) { in <- received{from, orders} }

// outcome is what a sender was told.
type outcome struct {
	answer *Answer
	err    error
}

// sent is an order under way. It fails the test if it is told twice.
type sent struct {
	tb   testing.TB
	told chan outcome
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
		case s.told <- outcome{a, err}:
		default:
			tb.Errorf("the order of %d units was told a second time: %v, %v", quantity, a, err)
		}
	})
}

// answer waits for the answer. What was told stays, so that a second one shows.
func (s *sent) answer() *Answer {
	s.tb.Helper()
	o := s.wait()
	if o.err != nil {
		s.tb.Fatalf("the order was told %v", o.err)
	}
	return o.answer
}

// broken waits for ErrBroken.
func (s *sent) broken() {
	s.tb.Helper()
	if o := s.wait(); !errors.Is(o.err, ErrBroken) {
		s.tb.Fatalf("the order was told %v, %v; want ErrBroken", o.answer, o.err)
	}
}

// unsent waits for ErrNoLink: the link never came up.
func (s *sent) unsent() {
	s.tb.Helper()
	if o := s.wait(); !errors.Is(o.err, ErrNoLink) {
		s.tb.Fatalf("the order was told %v, %v; want ErrNoLink", o.answer, o.err)
	}
}

func (s *sent) wait() outcome {
	s.tb.Helper()
	o := next(s.tb, "what became of an order", s.told)
	s.told <- o
	return o
}

// next takes the next from c.
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

// observed is an Observer that leaves what it is told to the test, as text.
type observed chan string

func newObserved() observed { return make(observed, 2000) }

func (o observed) Silent(_ Peer, ticks int, waiting []Waiting) {
	o <- fmt.Sprintf("silent %d %v", ticks, waiting)
}
func (o observed) Revived(Peer)                   { o <- "revived" }
func (o observed) Dead(_ Peer, waiting []Waiting) { o <- fmt.Sprintf("dead %v", waiting) }

// none fails if something was told.
func (o observed) none(tb testing.TB) {
	tb.Helper()
	select {
	case said := <-o:
		tb.Errorf("the observer was told %q, want nothing", said)
	default:
	}
}

// manual is a clock that stands still and never ticks by itself.
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

// stands makes a seller that sends no heartbeats.
func stands(c *Config) { c.clock = newManual().clock() }

// with returns cfg changed.
func (cfg Config) with(change func(*Config)) Config {
	change(&cfg)
	return cfg
}

// linkOf is the link to p now.
func linkOf(ls *Links, p Peer) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.peers[p].link
}
