package forward

import (
	"fmt"
	"net"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
)

// quiet is a link that is up, with a waiting order and a seller that sends no heartbeats.
type quiet struct {
	t     *testing.T
	ls    *Links
	link  *link
	told  observed
	clock *manual
	in    inbox
	got   received
	order *sent
}

func newQuiet(t *testing.T) *quiet {
	t.Helper()
	q := &quiet{t: t, told: newObserved(), clock: newManual(), in: newInbox()}
	s := serve(t, config("seller").with(noHeartbeats), q.in)
	q.ls = newLinks(t, config("buyer").with(func(c *Config) { c.Observer, c.clock = q.told, q.clock.clock() }))
	q.order = send(t, q.ls, s.peer, 1)
	q.got = next(t, "the order", q.in)
	q.link = linkOf(q.ls, s.peer)
	return q
}

func (q *quiet) tick(after time.Duration) { q.link.tick(q.clock.add(after)) }

// silent ticks until the first silent tick: gRPC's first frames may still arrive.
func (q *quiet) silent() {
	q.t.Helper()
	sandboxtest.Eventually(q.t, "the first silent tick", func() bool { q.tick(defaultTick); return len(q.told) > 0 })
	q.expect("silent 1 [{sku 7}]")
}

func (q *quiet) expect(want string) {
	q.t.Helper()
	select {
	case got := <-q.told:
		if got != want {
			q.t.Fatalf("the observer received %q, want %q", got, want)
		}
	default:
		q.t.Fatalf("the observer received nothing, want %q", want)
	}
}

func (q *quiet) answer() {
	q.t.Helper()
	q.got.from.Answer(place(q.got.orders[0]))
	q.order.answer()
}

func TestSilentTicksAreCountedWhileOrdersWait(t *testing.T) {
	t.Parallel()
	q := newQuiet(t)
	q.silent()
	for i := 2; i <= 5; i++ {
		q.tick(defaultTick)
		q.expect(fmt.Sprintf("silent %d [{sku 7}]", i))
	}
	q.answer()
	q.tick(defaultTick)
	q.expect("revived")
	q.tick(defaultTick) // nothing is read, and nothing waits
	q.tick(defaultTick)
	q.told.none(t)
	send(t, q.ls, q.link.peer.Peer, 2)
	next(t, "the second order", q.in)
	q.silent()
}

func TestLateTickRestartsTheCount(t *testing.T) {
	t.Parallel()
	q := newQuiet(t)
	q.silent()
	q.tick(defaultTick)
	q.expect("silent 2 [{sku 7}]")
	q.tick(defaultTick*3/2 + 1)
	q.told.none(t)
	q.tick(defaultTick)
	q.expect("silent 1 [{sku 7}]")
	q.tick(defaultTick * 3 / 2) // in time
	q.expect("silent 2 [{sku 7}]")
}

// On a busy machine, the goroutine that reads may not have run yet.
func TestUnreadBytesAreNotSilence(t *testing.T) {
	t.Parallel()
	near, far := pipe(t)
	conn := &heardConn{Conn: near}
	l := &link{}
	l.conn.Store(conn)
	if l.isHeard(false) {
		t.Error("an empty connection counts as heard")
	}
	if _, err := far.Write([]byte("1")); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "the byte", func() bool { return l.isHeard(false) })
	if l.watched.reads != 0 {
		t.Error("the byte was already read")
	}
	if _, err := conn.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if !l.isHeard(false) {
		t.Error("a read does not count as heard")
	}
	if l.isHeard(false) {
		t.Error("a read counts twice")
	}
}

// pipe returns both ends of a loopback connection that closes with the test.
func pipe(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l := listen(t)
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

func TestLinkWithoutAHelloIsSilentAndEnds(t *testing.T) {
	t.Parallel()
	told, clock := newObserved(), newManual()
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer, c.clock = told, clock.clock() }))
	p := Peer{listen(t).Addr().String(), "seller"}
	order := send(t, ls, p, 1)
	link := linkOf(ls, p)
	for i := 1; i <= 5; i++ {
		link.tick(clock.add(defaultTick))
		if got, want := next(t, "silence", told), fmt.Sprintf("silent %d [{sku 7}]", i); got != want {
			t.Errorf("the observer received %q, want %q", got, want)
		}
	}
	order.unsent()
	if list := ls.UnderWay(); len(list) != 0 {
		t.Errorf("links are up: %v", list)
	}
	told.none(t)
}

func TestLinkOnWhichNothingIsReadEnds(t *testing.T) {
	t.Parallel()
	q := newQuiet(t)
	for range unused/defaultTick + 10 {
		q.tick(defaultTick)
	}
	q.order.broken()
}

func TestHeartbeatsPreventSilence(t *testing.T) {
	t.Parallel()
	in, told, clock := newInbox(), newObserved(), newManual()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer, c.clock = told, clock.clock() }))
	send(t, ls, s.peer, 1)
	next(t, "the order", in)
	link := linkOf(ls, s.peer)
	for range 10 {
		reads := link.conn.Load().reads.Load()
		sandboxtest.Eventually(t, "a heartbeat", func() bool { return link.conn.Load().reads.Load() > reads })
		link.tick(clock.add(defaultTick))
	}
	told.none(t)
}
