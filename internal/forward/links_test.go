package forward

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"flashsale/internal/forward/wire"
	"flashsale/internal/sandbox/sandboxtest"
)

func TestOrderAndAnswerArriveUnchanged(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer"))
	order := &Order{
		Sku: "sku", Token: 7, Customer: []byte("c\xff"), Key: []byte{0, 1}, Quantity: 3, PriceCents: proto.Int64(0), Currency: "EUR",
		LeftUs: 1e6, Traceparent: "00-1-2-3", RequestId: "r",
	}
	told := make(chan outcome, 1)
	if err := ls.Send(s.peer, order, func(a *Answer, err error) { told <- outcome{a, err} }); err != nil {
		t.Fatal(err)
	}
	got := next(t, "the order", in)
	if len(got.orders) != 1 || !proto.Equal(got.orders[0], order) {
		t.Fatalf("got %v, want %v", got.orders, order)
	}
	if name := got.from.Replica(); name != "replica of buyer" {
		t.Errorf("the order came from %q", name)
	}
	answer := &Answer{
		Number: order.Number, Outcome: wire.Outcome_CUSTOMER_LIMIT, Detail: "d", Id: []byte("0123456789abcdef"), Quantity: 3,
		PriceCents: 999, Currency: "EUR", Limit: proto.Int32(0), Fence: 7, Seq: 8, CreatedUs: 9, ExpiresUs: 10,
	}
	got.from.Answer(answer)
	if o := next(t, "the answer", told); o.err != nil || !proto.Equal(o.answer, answer) {
		t.Errorf("got %v, %v; want %v", o.answer, o.err, answer)
	}
}

func TestOrdersThatQueueUpGoInOneMessage(t *testing.T) {
	t.Parallel()
	const orders = maxMessage + 100
	in := newInbox()
	l := listen(t)
	ls := newLinks(t, config("buyer"))
	for i := range int32(orders) { // while the link waits for the server
		send(t, ls, Peer{l.Addr().String(), "seller"}, i)
	}
	serveOn(t, l, config("seller"), in)
	messages := 0
	for n := int32(0); n < orders; messages++ {
		for _, o := range next(t, "orders", in).orders {
			if o.Quantity != n {
				t.Fatalf("got the order of %d units, want that of %d", o.Quantity, n)
			}
			n++
		}
	}
	if messages > orders/10 {
		t.Errorf("%d orders came in %d messages", orders, messages)
	}
}

func TestAnswersFindTheirOrdersInAnyOrder(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer"))
	var all []*sent
	var got []received
	for i := range int32(10) {
		all = append(all, send(t, ls, s.peer, i))
		got = append(got, next(t, "an order", in))
	}
	for i := len(got) - 1; i >= 0; i-- {
		got[i].from.Answer(place(got[i].orders[0]))
	}
	for i, s := range all {
		if a := s.answer(); a.Quantity != int32(i) {
			t.Errorf("the order of %d units has the answer for %d", i, a.Quantity)
		}
	}
}

func TestFullLinkRejectsOrders(t *testing.T) {
	t.Parallel()
	in := newInbox()
	limited := func(c *Config) { c.Limit = 2 }
	s := serve(t, config("seller").with(limited), in)
	ls := newLinks(t, config("buyer").with(limited))
	first := send(t, ls, s.peer, 1)
	got := next(t, "the first order", in)
	send(t, ls, s.peer, 2)
	if _, err := trySend(t, ls, s.peer, 3); !errors.Is(err, ErrFull) {
		t.Fatalf("the third order: %v, want ErrFull", err)
	}
	got.from.Answer(place(got.orders[0]))
	first.answer()
	send(t, ls, s.peer, 4)
}

func TestCutLinkReportsEachOrderBrokenOnce(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	cable := sandboxtest.NewLink(t, s.peer.Addr)
	p := Peer{cable.Addr, "seller"}
	ls := newLinks(t, config("buyer"))
	heal := func() {
		t.Helper()
		sandboxtest.Eventually(t, "the end of the last dial", func() bool { return linkOf(ls, p) == nil })
		cable.Heal()
	}

	t.Log("cut after the order was sent, before its answer")
	waits := send(t, ls, p, 1)
	got := next(t, "the order", in)
	cable.Cut()
	waits.broken()
	next(t, "the end of the link at the seller", got.from.Gone())
	got.from.Answer(place(got.orders[0])) // goes nowhere
	heal()

	t.Log("given up while the answer is on its way")
	waits = send(t, ls, p, 2)
	got = next(t, "the order", in)
	release := cable.Hold()
	got.from.Answer(place(got.orders[0]))
	ls.Break(p)
	waits.broken()
	release()

	t.Log("cut before the order was sent")
	waits = send(t, ls, p, 3)
	got = next(t, "the order", in)
	got.from.Answer(place(got.orders[0]))
	waits.answer()
	cable.Cut()
	// The link, or a dial after its end is noticed, fails.
	if o := send(t, ls, p, 4).wait(); !errors.Is(o.err, ErrBroken) && !errors.Is(o.err, ErrNoLink) {
		t.Fatalf("got %v, %v; want ErrBroken or ErrNoLink", o.answer, o.err)
	}
	heal()

	waits = send(t, ls, p, 5)
	got = next(t, "the order", in)
	got.from.Answer(place(got.orders[0]))
	waits.answer() // and done was not called again for the others
}

func TestAnswerAfterBreakIsIgnored(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller").with(noHeartbeats), in)
	ls := newLinks(t, config("buyer"))
	for range 10 { // whether gRPC hands the second answer over is left to chance
		isTold, release := make(chan struct{}), make(chan struct{})
		err := ls.Send(s.peer, &Order{}, func(*Answer, error) {
			close(isTold)
			<-release
			ls.Break(s.peer)
		})
		if err != nil {
			t.Fatal(err)
		}
		first := next(t, "the first order", in)
		second := send(t, ls, s.peer, 2)
		got := next(t, "the second order", in)
		first.from.Answer(place(first.orders[0]))
		next(t, "the first answer", isTold)
		conn := linkOf(ls, s.peer).conn.Load()
		reads := conn.reads.Load()
		got.from.Answer(place(got.orders[0]))
		sandboxtest.Eventually(t, "the second answer", func() bool { return conn.reads.Load() > reads })
		close(release)
		second.broken()
	}
}

func TestSendAfterBreakOpensANewLink(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer"))
	broken := send(t, ls, s.peer, 1)
	older := next(t, "the first order", in)
	ls.Break(s.peer)
	again := send(t, ls, s.peer, 1)
	newer := next(t, "the order that was sent again", in)
	broken.broken()
	select {
	case <-older.from.Gone():
	default:
		t.Error("the older link was not gone when the newer one's order came")
	}
	older.from.Answer(&Answer{Number: older.orders[0].Number, Outcome: wire.Outcome_SOLD_OUT})
	newer.from.Answer(place(newer.orders[0]))
	if a := again.answer(); a.Outcome != wire.Outcome_PLACED {
		t.Errorf("the order got the answer of the older link: %v", a)
	}
	ls.Break(Peer{"127.0.0.1:1", "of no link"})
}

func TestUnderWayCountsOrdersOnLinksThatAreUp(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer"))
	send(t, ls, s.peer, 1)
	next(t, "the order", in)
	if diff := cmp.Diff(map[string]int{s.peer.Addr: 1}, ls.UnderWay()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	ls.Break(s.peer)
	if got := ls.UnderWay(); len(got) != 0 {
		t.Errorf("after Break: %v", got)
	}
}

// An address that accepts and closes connections does not show whether the process is
// alive. It is dialled again, at first at once and then with a back-off.
func TestUnreachablePeerIsDialledWithABackOff(t *testing.T) {
	t.Parallel()
	s := serve(t, config("seller"), placeAll)
	cable := sandboxtest.NewLink(t, s.peer.Addr)
	p := Peer{cable.Addr, "seller"}
	told, clock := newObserved(), newManual()
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.Observer, c.clock = told, clock.clock() }))
	cable.Cut()
	send(t, ls, p, 1).unsent()
	send(t, ls, p, 2).unsent()
	noLink := func() {
		t.Helper()
		if _, err := trySend(t, ls, p, 3); !errors.Is(err, ErrNoLink) {
			t.Fatalf("got %v, want ErrNoLink", err)
		}
	}
	noLink()
	if linkOf(ls, p) != nil {
		t.Error("it was dialled again before its back-off")
	}
	clock.add(minBackoff)
	noLink() // and dials
	noLink() // meanwhile
	sandboxtest.Eventually(t, "the end of the third dial", func() bool { return linkOf(ls, p) == nil })
	clock.add(minBackoff)
	noLink()
	if linkOf(ls, p) != nil {
		t.Error("the back-off did not double")
	}
	cable.Heal()
	clock.add(minBackoff)
	noLink()
	sandboxtest.Eventually(t, "the link", func() bool { return len(ls.UnderWay()) == 1 })
	send(t, ls, p, 4).answer()
	told.none(t)
}

func TestUnusedLinkCloses(t *testing.T) {
	t.Parallel()
	in, clock := newInbox(), newManual()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer").with(func(c *Config) { c.clock = clock.clock() }))
	order := send(t, ls, s.peer, 1)
	got := next(t, "the order", in)
	link := linkOf(ls, s.peer)
	link.tick(clock.add(unused + 1))
	if len(ls.UnderWay()) != 1 {
		t.Fatal("the link ended while an order waited")
	}
	got.from.Answer(place(got.orders[0]))
	order.answer()
	link.tick(clock.add(unused))
	if len(ls.UnderWay()) != 1 {
		t.Fatal("the link ended too early")
	}
	link.tick(clock.add(1))
	next(t, "the end of the link at the seller", got.from.Gone())
	send(t, ls, s.peer, 2)
	next(t, "an order on a new link", in)
}

func TestClosedLinksRejectOrders(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	ls := newLinks(t, config("buyer"))
	waits := send(t, ls, s.peer, 1)
	next(t, "the order", in)
	closeNow(t, ls)
	waits.broken()
	if _, err := trySend(t, ls, s.peer, 2); !errors.Is(err, ErrNoLink) {
		t.Errorf("got %v, want ErrNoLink", err)
	}
}

func TestCloseOfLinksIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	s := serve(t, config("seller"), placeAll)
	ls := newLinks(t, config("buyer"))
	blocked, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	err := ls.Send(s.peer, &Order{}, func(*Answer, error) { close(blocked); <-release })
	if err != nil {
		t.Fatal(err)
	}
	next(t, "the answer", blocked)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ls.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
