package forward

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"flashsale/internal/forward/wire"
)

// Receiver takes the orders of other replicas.
type Receiver interface {
	// Receive takes orders that came in one message, and answers each of them once
	// by from. It must not block.
	Receive(from *Source, orders []*Order)
}

// Source is one incoming link. It is safe for concurrent use.
type Source struct {
	hello *wire.Hello // the other side's
	limit int
	gone  chan struct{}
	kick  chan struct{} // there are answers

	// handing is held while orders are handed over: none are after gone is closed.
	handing sync.Mutex

	mu       sync.Mutex
	isGone   bool
	underWay int // orders without an answer
	answers  []*Answer
	why      error // it is gone: what the other side is told

	// Of the goroutine that writes.
	message wire.FromSeller
	spare   []*Answer // becomes answers when they are written
}

var errReplaced = status.Error(codes.Aborted, "a newer link of the same process has replaced this one")

// Answer puts a on the way back. It never blocks. Answers to a Source that is gone
// are dropped.
func (s *Source) Answer(a *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone {
		return
	}
	s.underWay--
	s.answers = append(s.answers, a)
	kick(s.kick)
}

// Gone is closed once the link has ended or was replaced by a newer one of the same
// process. Orders of it that are in no batch yet must be dropped then: they may
// have been sent again.
func (s *Source) Gone() <-chan struct{} { return s.gone }

// Replica is the name, for people, of the replica at the other end.
func (s *Source) Replica() string { return s.hello.Replica }

func newSource(hello *wire.Hello, limit int) *Source {
	return &Source{hello: hello, limit: limit, gone: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// end closes gone, once, when no orders are being handed over. why is what the other
// side is told; the first one counts.
func (s *Source) end(why error) {
	s.handing.Lock()
	defer s.handing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone {
		return
	}
	s.isGone, s.why, s.answers = true, why, nil
	close(s.gone)
}

// read hands orders over as they come, until the stream ends or the source is gone.
func (s *Source) read(stream wire.Forward_LinkServer, receiver Receiver, in metrics) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		in.messages.Inc()
		in.orders.Add(float64(len(message.Orders)))
		if err := s.hand(message.Orders, receiver); err != nil {
			return err
		}
	}
}

// hand gives orders to receiver, unless the source is gone or has sent more than it
// may.
func (s *Source) hand(orders []*Order, receiver Receiver) error {
	if len(orders) == 0 {
		return nil
	}
	s.handing.Lock()
	defer s.handing.Unlock()
	s.mu.Lock()
	s.underWay += len(orders)
	isGone, isOver := s.isGone, s.underWay+len(s.answers) > s.limit // a place is free once its answer is sent
	s.mu.Unlock()
	switch {
	case isGone:
		return errReplaced
	case isOver:
		return status.Errorf(codes.ResourceExhausted, "more than %d orders are under way: all replicas must have the same limit", s.limit)
	}
	receiver.Receive(s, orders)
	return nil
}

// write sends the hello, and then answers as they come and a heartbeat at each
// tick, until the source is gone or closing is closed. Nothing else sends.
func (s *Source) write(stream wire.Forward_LinkServer, hello *wire.Hello, ticks <-chan time.Time, closing <-chan struct{}) error {
	err := stream.Send(&wire.FromSeller{Hello: hello})
	var heartbeat wire.FromSeller
	for err == nil {
		select {
		case <-ticks:
			err = stream.Send(&heartbeat)
		case <-s.kick:
			err = s.flush(stream)
		case <-closing:
			return s.flush(stream)
		case <-s.gone:
			return s.why
		}
	}
	return err
}

// flush sends the answers that have queued up.
func (s *Source) flush(stream wire.Forward_LinkServer) error {
	s.mu.Lock()
	answers := s.answers
	s.answers = s.spare[:0]
	s.mu.Unlock()
	for part := range slices.Chunk(answers, maxMessage) {
		s.message.Answers = part
		if err := stream.Send(&s.message); err != nil {
			return err
		}
	}
	clear(answers) // so that the collector can have them
	s.spare = answers
	return nil
}
