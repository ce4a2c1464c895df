package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"flashsale/internal/forward/wire"
	"flashsale/internal/sleep"
)

const (
	// maxProbes attempts, with pauses from probeWait that double, take 155 ms in all:
	// by then the listener of a killed process is closed.
	maxProbes = 6
	probeWait = 5 * time.Millisecond
)

var (
	errNoHello   = fmt.Errorf("no hello within %s", helloTimeout)
	errNothing   = fmt.Errorf("nothing was read for %s", unused)
	errUnused    = fmt.Errorf("no order was sent for %s", unused)
	errOtherPeer = errors.New("another process answers at the address")
)

// link is one attempt to reach a peer and, if that succeeds, the stream. It has three
// goroutines: run reads, write writes, and watch detects silence.
type link struct {
	links   *Links
	peer    *peer
	ordinal uint64
	ctx     context.Context
	cancel  context.CancelCauseFunc
	kick    chan struct{} // wakes write
	conn    atomic.Pointer[heardConn]
	watched watched                // used only by watch
	takers  []func(*Answer, error) // used only by take

	// Links.mu guards the fields below.

	isTrial  bool      // accepts no orders before it is up
	probes   int       // the number of attempts in a row to see whether the process is gone
	orphans  []Waiting // what waited on the link that broke before the probes
	isUp     bool      // the hello was read
	hasEnded bool      // the peer has no link, or a newer one
	replica  string
	number   uint64 // of the last order
	waiting  map[uint64]waiter
	queue    []*Order // waiting orders that were not written yet
	isUsed   bool     // an order was sent since the last tick
}

// waiter is an order without an answer.
type waiter struct {
	order *Order
	done  func(*Answer, error)
}

func (l *link) run() {
	var others sync.WaitGroup
	others.Go(l.watch)
	var err error
	if l.probes > 1 {
		err = sleep.For(l.ctx, probeWait<<(l.probes-2))
	}
	if err == nil {
		err = l.carry(&others)
	}
	if cause := context.Cause(l.ctx); cause != nil {
		err = cause // more precise than gRPC's error
	}
	l.cancel(err)
	others.Wait()
	l.finish(err)
}

// carry opens the stream and reads until it ends.
func (l *link) carry(others *sync.WaitGroup) error {
	late := time.AfterFunc(helloTimeout, func() { l.cancel(errNoHello) })
	defer late.Stop()
	stream, hangUp, err := l.dial()
	if err != nil {
		return err
	}
	defer hangUp()
	if err := stream.Send(&wire.ToSeller{Hello: l.links.cfg.hello(l.peer.Process, l.ordinal)}); err != nil {
		return fmt.Errorf("send the hello: %w", err)
	}
	first, err := stream.Recv()
	if err != nil {
		return fmt.Errorf("wait for the hello: %w", err)
	}
	switch hello := first.GetHello(); {
	case hello == nil || hello.Version != version:
		return fmt.Errorf("the seller has version %d of the protocol, this replica has %d", hello.GetVersion(), version)
	case hello.Process != l.peer.Process:
		return errOtherPeer
	case !late.Stop():
		return errNoHello
	case !l.up(hello.Replica):
		return nil // it has ended
	}
	l.links.metrics.links.Inc()
	defer l.links.metrics.links.Dec()
	l.links.cfg.Logger.Debug("link is up", "seller", l.replica, "addr", l.peer.Addr)
	others.Go(func() { l.write(stream) })
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		l.take(message.Answers)
	}
}

// up marks the link as up, unless it has ended.
func (l *link) up(replica string) bool {
	l.links.mu.Lock()
	defer l.links.mu.Unlock()
	if l.hasEnded {
		return false
	}
	l.isUp, l.replica = true, replica
	l.probes, l.orphans = 0, nil // the process is alive
	l.peer.failures = 0
	return true
}

// take passes answers to the orders that wait for them.
func (l *link) take(answers []*Answer) {
	if len(answers) == 0 {
		return // a heartbeat
	}
	takers := l.takers[:0]
	l.links.mu.Lock()
	if !l.hasEnded {
		for _, a := range answers {
			takers = append(takers, l.waiting[a.Number].done)
			delete(l.waiting, a.Number)
		}
	}
	l.links.mu.Unlock()
	for i, done := range takers {
		if done != nil {
			done(answers[i], nil)
		}
	}
	clear(takers)
	l.takers = takers
}

// write sends what has queued up, until the link ends. Once the link is up, nothing
// else sends.
func (l *link) write(stream wire.Forward_LinkClient) {
	var message wire.ToSeller
	var queue []*Order
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.kick:
		}
		l.links.mu.Lock()
		queue, l.queue = l.queue, queue[:0]
		l.links.mu.Unlock()
		for part := range slices.Chunk(queue, maxMessage) {
			message.Orders = part
			if err := stream.Send(&message); err != nil {
				l.cancel(fmt.Errorf("send orders: %w", err))
				return
			}
			l.links.metrics.messages.Inc()
			l.links.metrics.orders.Add(float64(len(part)))
		}
		clear(queue) // lets answered orders be collected
	}
}

// end detaches the link from its peer. run then returns and calls finish. The caller
// holds Links.mu.
func (l *link) end(why error) {
	if l.hasEnded {
		return
	}
	l.hasEnded = true
	l.peer.link = nil
	l.peer.endedAt = l.links.cfg.clock.now()
	switch {
	case isGone(why):
		l.peer.failures = 0
	case !l.isUp && l.probes == 0:
		l.peer.failures++
	}
	l.cancel(why)
}

// finish reports the end of the link to the Observer and to the waiting orders.
func (l *link) finish(err error) {
	ls := l.links
	ls.mu.Lock()
	isBroken := !l.hasEnded // by the other side or the network
	l.end(err)
	waiting, waiters := l.distinct(l.orphans), l.waiting
	if isBroken && !ls.isClosed && l.mustProbe(err) {
		ls.open(l.peer, &link{probes: l.probes + 1, orphans: waiting})
	}
	l.waiting, l.queue = nil, nil
	isLogged := isBroken && l.isLogged()
	ls.mu.Unlock()

	if isLogged {
		ls.cfg.Logger.Warn("link to a seller ended", "seller", l.replica, "addr", l.peer.Addr, "orders", len(waiters), "error", err)
	}
	if isGone(err) {
		// Before the senders of the orders decide what to do next.
		ls.cfg.Observer.Dead(l.peer.Peer, waiting)
	}
	if len(waiters) > 0 {
		ls.metrics.broken.Inc()
	}
	result := ErrBroken
	if !l.isUp { // no longer changes
		result = ErrNoLink
	}
	for _, w := range waiters {
		w.done(nil, result)
	}
}

// mustProbe reports whether to open the next link at once, which shows whether the
// process is gone. Orders that are resent use that link, too. The caller holds
// Links.mu.
func (l *link) mustProbe(err error) bool {
	if l.isUp {
		return len(l.orphans)+len(l.waiting) > 0
	}
	// The connections of a killed process may be closed before its listener: the next
	// one is then accepted and reset.
	return 0 < l.probes && l.probes < maxProbes && !isGone(err) && !errors.Is(err, errNoHello)
}

// isLogged reports whether to log the end of the link. It limits the rate: every order
// may try an address that refuses connections. The caller holds Links.mu.
func (l *link) isLogged() bool {
	if l.isUp {
		return true
	}
	now := l.links.cfg.clock.now()
	if now.Sub(l.peer.warnedAt) < time.Second {
		return false
	}
	l.peer.warnedAt = now
	return true
}

// isGone reports whether a link that ended with err has shown that the process is gone.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, errOtherPeer)
}

// distinct returns what the orders wait for, and also, without duplicates. The caller
// holds Links.mu.
func (l *link) distinct(also []Waiting) []Waiting {
	all := make(map[Waiting]struct{})
	for _, w := range also {
		all[w] = struct{}{}
	}
	for _, w := range l.waiting {
		all[Waiting{w.order.Sku, w.order.Token}] = struct{}{}
	}
	return slices.Collect(maps.Keys(all))
}
