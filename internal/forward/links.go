package forward

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// minBackoff and maxBackoff bound the pause between two dials of an unreachable
	// peer.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
)

// Links are the links of this process to sellers. They are safe for concurrent use.
type Links struct {
	cfg     Config
	metrics metrics
	all     sync.WaitGroup // the links' goroutines

	// mu guards everything below, every peer and most of a link. One mutex suffices:
	// it is held for a few instructions at a time.
	mu       sync.Mutex
	peers    map[Peer]*peer
	ordinal  uint64 // of the newest link
	isClosed bool
}

// peer is the state of a Peer that outlives its links. Links.mu guards it.
type peer struct {
	Peer
	link *link // nil if there is none
	// failures counts the dials that failed in a row, except refused connections.
	failures int
	endedAt  time.Time // the end of the last link
	warnedAt time.Time // the last warning about a link that did not come up
	isSilent bool      // Silent was called, and Revived was not called since
}

// NewLinks returns Links without any link: Send opens them.
func NewLinks(cfg Config) *Links {
	return &Links{cfg: cfg.withDefaults(), metrics: newMetrics(cfg.Registry, "out"), peers: make(map[Peer]*peer)}
}

// Send sends o on the link to p, which it opens if there is none. It never blocks. If
// it returns nil, done is called exactly once, with the answer, ErrBroken, or ErrNoLink
// if the link never came up. Until then o belongs to the link. The link's goroutine
// calls done, which must not block. Otherwise Send returns ErrFull or ErrNoLink.
//
// After a link has ended or a dial has failed, Send opens the next one at once. After
// two failed dials in a row, Send returns ErrNoLink until one succeeds; dials then
// continue with a back-off while orders come. A refused connection does not count as a
// failure: each Send dials again, and Observer.Dead is called.
func (ls *Links) Send(p Peer, o *Order, done func(*Answer, error)) error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.linkTo(p)
	if l == nil {
		return ErrNoLink
	}
	if len(l.waiting) >= ls.cfg.Limit {
		return ErrFull
	}
	l.number++
	o.Number = l.number
	l.waiting[o.Number] = waiter{o, done}
	l.queue = append(l.queue, o)
	l.isUsed = true
	kick(l.kick)
	return nil
}

// linkTo returns the link that accepts orders for the peer now, or nil. The caller
// holds mu.
func (ls *Links) linkTo(at Peer) *link {
	p := ls.peers[at]
	if p == nil {
		ls.forget()
		p = &peer{Peer: at}
		ls.peers[at] = p
	}
	switch {
	case ls.isClosed:
		return nil
	case p.link != nil && (p.link.isUp || !p.link.isTrial):
		return p.link
	case p.link != nil:
		return nil
	case p.failures < 2:
		return ls.open(p, &link{})
	}
	if backoff := min(minBackoff<<min(p.failures-2, 10), maxBackoff); ls.cfg.clock.now().Sub(p.endedAt) >= backoff {
		ls.open(p, &link{isTrial: true})
	}
	return nil
}

// forget removes peers that have had no link for a while: a restarted seller is a new
// peer. The caller holds mu.
func (ls *Links) forget() {
	for at, p := range ls.peers {
		if p.link == nil && ls.cfg.clock.now().Sub(p.endedAt) > unused {
			delete(ls.peers, at)
		}
	}
}

// open starts l as the link to p. The caller holds mu.
func (ls *Links) open(p *peer, l *link) *link {
	ls.ordinal++
	now := ls.cfg.clock.now()
	l.links, l.peer, l.ordinal = ls, p, ls.ordinal
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.kick, l.waiting = make(chan struct{}, 1), make(map[uint64]waiter)
	l.watched = watched{at: now, heardAt: now, usedAt: now}
	p.link = l
	ls.all.Go(l.run)
	return l
}

// Break ends the link to p, if there is one. Every order on it gets ErrBroken, and later
// answers are ignored. The next Send opens a new link.
func (ls *Links) Break(p Peer) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if at := ls.peers[p]; at != nil && at.link != nil {
		at.link.end(errors.New("broken by the caller"))
	}
}

// UnderWay returns the number of orders without an answer on each link that is up, by
// the seller's address.
func (ls *Links) UnderWay() map[string]int {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	underWay := map[string]int{}
	for at, p := range ls.peers {
		if p.link != nil && p.link.isUp {
			underWay[at.Addr] += len(p.link.waiting)
		}
	}
	return underWay
}

// Close ends all links, whose orders get ErrBroken, and waits for their goroutines or
// for ctx. Send then returns ErrNoLink.
func (ls *Links) Close(ctx context.Context) error {
	ls.mu.Lock()
	ls.isClosed = true
	for _, p := range ls.peers {
		if p.link != nil {
			p.link.end(errors.New("this replica is stopping"))
		}
	}
	ls.mu.Unlock()

	ended := make(chan struct{})
	go func() { ls.all.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kick wakes the goroutine that receives from c, now or the next time it waits.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
