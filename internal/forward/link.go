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
	// maxProbes and probeWait, which doubles, make 155 ms in all: a process that was
	// killed has closed its listener by then.
	maxProbes = 6
	probeWait = 5 * time.Millisecond
)

var (
	errNoHello = fmt.Errorf("no hello within %s", helloTimeout)
	errStill   = fmt.Errorf("nothing was read for %s", unused)
	errUnused  = fmt.Errorf("no order for %s", unused)
	// errStranger means that another process has the peer's address.
	errStranger = errors.New("another process answers at the address")
)

// link is one try to reach a peer, and what it carries if that succeeds. It runs
// in three goroutines: run reads, write writes, and watch looks for silence.
type link struct {
	links   *Links
	peer    *peer
	ordinal uint64
	ctx     context.Context
	cancel  context.CancelCauseFunc
	kick    chan struct{} // there is something in queue, or the link is up
	conn    atomic.Pointer[heardConn]
	watched watched                // watch's own
	takers  []func(*Answer, error) // take's own

	// All below is guarded by Links.mu.

	isTrial  bool      // takes no orders before it is up
	probes   int       // this is the n-th link in a row that only shows whether the process is gone
	orphans  []Waiting // what waited on the link that broke before these
	isUp     bool      // a hello was read
	hasEnded bool      // it is not its peer's link any more
	replica  string
	since    time.Time
	number   uint64 // of the last order
	waiting  map[uint64]waiter
	queue    []*Order // of those that wait: not written yet
	isUsed   bool     // since watch looked
}

// waiter is one order without an answer.
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
		err = cause // what gRPC made of it says less
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
		return fmt.Errorf("the seller speaks version %d of the protocol, this replica %d", hello.GetVersion(), version)
	case hello.Process != l.peer.Process:
		return errStranger
	case !late.Stop():
		return errNoHello
	case !l.up(hello.Replica):
		return nil // ended meanwhile
	}
	l.links.metrics.links.Inc()
	defer l.links.metrics.links.Dec()
	l.links.cfg.Logger.Debug("a link is up", "seller", l.replica, "addr", l.peer.Addr)
	others.Go(func() { l.write(stream) })
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		l.take(message.Answers)
	}
}

// up lets the link carry orders, unless it has ended.
func (l *link) up(replica string) bool {
	l.links.mu.Lock()
	defer l.links.mu.Unlock()
	if l.hasEnded {
		return false
	}
	l.isUp, l.replica, l.since = true, replica, l.links.cfg.clock.now()
	l.probes, l.orphans = 0, nil // it lives
	l.peer.failures = 0
	return true
}

// take hands answers to the orders that wait for them.
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

// write sends whatever has queued up, again and again. Nothing else sends once the
// link is up.
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
		clear(queue) // so that the collector can have them once they are answered
	}
}

// end detaches the link from its peer. run ends soon after, and tells the orders that
// wait. The caller holds Links.mu.
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

// finish tells the Observer and the orders that wait that the link has ended.
func (l *link) finish(err error) {
	ls := l.links
	ls.mu.Lock()
	isBroken := !l.hasEnded // by the other side, or by the network
	l.end(err)
	waiting, waiters := l.distinct(l.orphans), l.waiting
	if isBroken && !ls.isClosed && l.isToProbe(err) {
		ls.open(l.peer, &link{probes: l.probes + 1, orphans: waiting})
	}
	l.waiting, l.queue = nil, nil
	isNews := isBroken && l.isNews()
	ls.mu.Unlock()

	if isNews {
		ls.cfg.Logger.Warn("a link has ended", "seller", l.replica, "addr", l.peer.Addr, "orders", len(waiters), "error", err)
	}
	if isGone(err) {
		// Before the orders are told, whose senders then choose what to do next.
		ls.cfg.Observer.Dead(l.peer.Peer, waiting)
	}
	if len(waiters) > 0 {
		ls.metrics.broken.Inc()
	}
	told := ErrBroken
	if !l.isUp { // which changes no more
		told = ErrNoLink
	}
	for _, w := range waiters {
		w.done(nil, told)
	}
}

// isToProbe says whether the next link is to be opened at once, to see whether the
// process is gone: its address tells. Orders that are sent again go on that link,
// too. The caller holds Links.mu.
func (l *link) isToProbe(err error) bool {
	if l.isUp {
		return len(l.orphans)+len(l.waiting) > 0
	}
	// A process that was killed may close its connections before its listener: the
	// next one is taken and then reset.
	return 0 < l.probes && l.probes < maxProbes && !isGone(err) && !errors.Is(err, errNoHello)
}

// isNews says whether the log should have the end of the link: an address that refuses
// connections may be tried by every order. The caller holds Links.mu.
func (l *link) isNews() bool {
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

// isGone says whether a link that ended so has shown that the process is gone. A
// connection is only refused when it is new.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, errStranger)
}

// distinct is what orders wait for, and also, each SKU and token once. The caller
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
