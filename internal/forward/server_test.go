package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"flashsale/internal/forward/wire"
	"flashsale/internal/sandbox/sandboxtest"
)

// call opens a stream to a seller, as Links do, which ends with the test.
func call(t *testing.T, p Peer) wire.Forward_LinkClient {
	t.Helper()
	conn, err := tls.Dial("tcp", p.Addr, config("").TLS)
	if err != nil {
		t.Fatal(err)
	}
	client, err := grpc.NewClient("passthrough:///seller", append(clientOptions, grpc.WithContextDialer(once(conn)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	stream, err := wire.NewForwardClient(client).Link(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func hello(ordinal uint64) *wire.Hello {
	return &wire.Hello{Version: version, Process: "buyer", Meets: "seller", Ordinal: ordinal}
}

func say(t *testing.T, stream wire.Forward_LinkClient, m *wire.ToSeller) {
	t.Helper()
	if err := stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

// ended reads until the stream's end, and returns what came before.
func ended(t *testing.T, stream wire.Forward_LinkClient) (answers []*Answer, code codes.Code) {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			return answers, status.Code(err)
		}
		answers = append(answers, m.Answers...)
	}
}

func TestNewerLinkReplacesTheOlderOne(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller"), in)
	older := call(t, s.peer)
	say(t, older, &wire.ToSeller{Hello: hello(1)})
	say(t, older, &wire.ToSeller{Orders: []*Order{{Number: 1}}})
	first := next(t, "the older link's order", in)

	newer := call(t, s.peer)
	say(t, newer, &wire.ToSeller{Hello: hello(2)})
	say(t, newer, &wire.ToSeller{Orders: []*Order{{Number: 1}}})
	second := next(t, "the newer link's order", in)
	select {
	case <-first.from.Gone():
	default:
		t.Error("the older link was not gone when the newer one's order came")
	}
	first.from.Answer(&Answer{Number: 1})
	if n := len(first.from.answers); n != 0 {
		t.Errorf("%d answers are queued on the replaced link", n)
	}
	if answers, code := ended(t, older); len(answers) != 0 || code != codes.Aborted {
		t.Errorf("the older link got %v and %v", answers, code)
	}
	select {
	case <-second.from.Gone():
		t.Error("the newer link has ended, too")
	default:
	}

	overtaken := call(t, s.peer) // its hello comes after that of a link opened later
	say(t, overtaken, &wire.ToSeller{Hello: hello(1)})
	if _, code := ended(t, overtaken); code != codes.Aborted {
		t.Errorf("an older link that arrived late got %v", code)
	}
}

func TestLinkThatBreaksTheProtocolEnds(t *testing.T) {
	t.Parallel()
	in := newInbox()
	s := serve(t, config("seller").with(func(c *Config) { c.Limit = 2 }), in)
	over := call(t, s.peer)
	say(t, over, &wire.ToSeller{Hello: hello(1)})
	say(t, over, &wire.ToSeller{Orders: make([]*Order, 2)})
	next(t, "the orders", in)
	say(t, over, &wire.ToSeller{Orders: make([]*Order, 1)})
	if _, code := ended(t, over); code != codes.ResourceExhausted {
		t.Errorf("a link with too many orders got %v", code)
	}
	for what, first := range map[string]*wire.ToSeller{
		"no hello":        {},
		"another version": {Hello: &wire.Hello{Version: version + 1, Process: "buyer", Meets: "seller", Ordinal: 2}},
		"no process":      {Hello: &wire.Hello{Version: version, Meets: "seller", Ordinal: 2}},
	} {
		stream := call(t, s.peer)
		say(t, stream, first)
		if _, code := ended(t, stream); code != codes.FailedPrecondition {
			t.Errorf("a link with %s ended with %v", what, code)
		}
	}
	stranger := call(t, s.peer)
	say(t, stranger, &wire.ToSeller{Hello: &wire.Hello{Version: version, Process: "buyer", Meets: "another", Ordinal: 2}})
	if m, err := stranger.Recv(); err != nil || m.Hello.GetProcess() != "seller" {
		t.Errorf("a link to another process got %v, %v", m, err)
	}
	if _, code := ended(t, stranger); code != codes.Unknown { // io.EOF
		t.Errorf("a link to another process got %v", code)
	}
	if len(in) != 0 {
		t.Error("the receiver got orders")
	}
}

func TestAnswersThatQueueUpGoInOneMessage(t *testing.T) {
	t.Parallel()
	const orders = maxMessage + 100
	s := serve(t, config("seller"), placeAll)
	stream := call(t, s.peer)
	all := make([]*Order, orders)
	for i := range all {
		all[i] = &Order{Number: uint64(i)}
	}
	say(t, stream, &wire.ToSeller{Hello: hello(1)})
	say(t, stream, &wire.ToSeller{Orders: all})
	messages := 0
	for n := uint64(0); n < orders; {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Answers) > 0 {
			messages++
		}
		for _, a := range m.Answers {
			if a.Number != n {
				t.Fatalf("got the answer %d, want %d", a.Number, n)
			}
			n++
		}
	}
	// Answers are queued faster than messages are sent.
	if messages > orders/2 {
		t.Errorf("%d answers came in %d messages", orders, messages)
	}
}

func TestCloseSendsTheReadyAnswers(t *testing.T) {
	t.Parallel()
	for range 5 { // whether the writer sees the answer or its end first is left to chance
		in := newInbox()
		s := serve(t, config("seller").with(noHeartbeats), in)
		stream := call(t, s.peer)
		say(t, stream, &wire.ToSeller{Hello: hello(1)})
		say(t, stream, &wire.ToSeller{Orders: make([]*Order, 3)})
		got := next(t, "the orders", in)
		// The first exceeds the flow-control window, so that the writer cannot send the
		// second until the stream is read.
		for _, a := range []*Answer{{Detail: strings.Repeat(".", 2*window)}, {}} {
			got.from.Answer(a)
			sandboxtest.Eventually(t, "the writer", func() bool { got.from.mu.Lock(); defer got.from.mu.Unlock(); return len(got.from.answers) == 0 })
		}
		got.from.Answer(&Answer{})
		closed := make(chan struct{})
		go func() { s.close(); close(closed) }()
		next(t, "the end of the server", s.closing)
		if answers, _ := ended(t, stream); len(answers) != 3 {
			t.Errorf("got %d answers, want 3", len(answers))
		}
		next(t, "Close", closed)
	}
}

func TestCloseOfTheServerIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	s := serve(t, config("seller"), newInbox())
	// Close does not end a link without a hello.
	stream := call(t, s.peer)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, code := ended(t, stream); code != codes.Unavailable {
		t.Errorf("the link got %v", code)
	}
}

func TestOrdersAndLinksAreCounted(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry() // of one replica, which does both
	counted := func(c *Config) { c.Registry = registry }
	in := newInbox()
	s := serve(t, config("seller").with(counted), in)
	ls := newLinks(t, config("buyer").with(counted))
	order := send(t, ls, s.peer, 1)
	got := next(t, "the order", in)
	if n := value(t, ls.metrics.links); n != 1 {
		t.Errorf("%v links out, want 1", n)
	}
	if n := value(t, s.metrics.links); n != 1 {
		t.Errorf("%v links in, want 1", n)
	}
	got.from.Answer(place(got.orders[0]))
	order.answer()
	broken := send(t, ls, s.peer, 2)
	next(t, "the order", in)
	ls.Break(s.peer)
	broken.broken()
	next(t, "the end of the link at the seller", got.from.Gone())
	for name, counter := range map[string]prometheus.Collector{
		"sent": ls.metrics.orders, "messages out": ls.metrics.messages, "received": s.metrics.orders, "messages in": s.metrics.messages,
	} {
		if n := value(t, counter); n != 2 {
			t.Errorf("%s: %v, want 2", name, n)
		}
	}
	if n := value(t, ls.metrics.broken); n != 1 {
		t.Errorf("%v links broken, want 1", n)
	}
}

func value(tb testing.TB, metric prometheus.Collector) float64 {
	tb.Helper()
	return testutil.ToFloat64(metric)
}
