package forward

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"flashsale/internal/forward/wire"
)

// Receiver receives the orders of other replicas.
type Receiver interface {
	// Receive receives the orders of one message and must answer each of them once by
	// from.Answer. It must not block.
	Receive(from *Source, orders []*Order)
}

// Source is one incoming link. It is safe for concurrent use.
type Source struct {
	hello *wire.Hello // of the other side
	limit int
	gone  chan struct{}
	kick  chan struct{} // wakes write

	// receiving is held during Receive, which is not called after gone is closed.
	receiving sync.Mutex

	mu       sync.Mutex
	isGone   bool
	underWay int // orders without an answer
	answers  []*Answer
	why      error // why it is gone, for the other side

	// Used only by write.
	message wire.FromSeller
	spare   []*Answer // becomes answers when they are written
}

var errReplaced = status.Error(codes.Aborted, "replaced by a newer link of the same process")

// Answer sends a back. It never blocks. Answers to a Source that is gone are dropped.
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

// Gone is closed once the link has ended or a newer link of the same process has
// replaced it. Its orders that are in no batch yet must then be dropped: they may have
// been resent.
func (s *Source) Gone() <-chan struct{} { return s.gone }

// Replica is the name, for people, of the other side.
func (s *Source) Replica() string { return s.hello.Replica }

func newSource(hello *wire.Hello, limit int) *Source {
	return &Source{hello: hello, limit: limit, gone: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// end closes gone once no Receive is running. why is for the other side; only the first
// call counts.
func (s *Source) end(why error) {
	s.receiving.Lock()
	defer s.receiving.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isGone {
		return
	}
	s.isGone, s.why, s.answers = true, why, nil
	close(s.gone)
}

// read passes orders to receiver until the stream ends or the source is gone.
func (s *Source) read(stream wire.Forward_LinkServer, receiver Receiver, in metrics) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		in.messages.Inc()
		in.orders.Add(float64(len(message.Orders)))
		if err := s.receive(message.Orders, receiver); err != nil {
			return err
		}
	}
}

// receive passes orders to receiver, unless the source is gone or has exceeded its
// limit.
func (s *Source) receive(orders []*Order, receiver Receiver) error {
	if len(orders) == 0 {
		return nil
	}
	s.receiving.Lock()
	defer s.receiving.Unlock()
	s.mu.Lock()
	s.underWay += len(orders)
	isGone, isOver := s.isGone, s.underWay+len(s.answers) > s.limit // an order counts until its answer is sent
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

// write sends the hello, then answers as they come and a heartbeat at each tick, until
// the source is gone or closing is closed. Nothing else sends.
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
	clear(answers) // lets them be collected
	s.spare = answers
	return nil
}
