package forward

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// minBackoff and maxBackoff are between two dials of a peer that cannot be
	// reached: soon enough after a short fault, and no storm during a long one.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
)

// Links are all links of this process to sellers. They are safe for concurrent
// use.
type Links struct {
	cfg     Config
	metrics metrics
	all     sync.WaitGroup // what links run

	// mu guards everything below, every peer, and most of a link. One for all is
	// enough: it is held for a few instructions at a time.
	mu       sync.Mutex
	peers    map[Peer]*peer
	ordinal  uint64 // of the newest link
	isClosed bool
}

// peer is what is known of a Peer between two links. Links.mu guards it.
type peer struct {
	Peer
	link *link // nil if there is none
	// failures are the dials that failed in a row, without those that were refused.
	failures int
	endedAt  time.Time // of the last link
	warnedAt time.Time // of a link that did not come up
	// isSilent says that Silent was told, and Revived was not told since.
	isSilent bool
}

// NewLinks returns no link yet: Send opens them.
func NewLinks(cfg Config) *Links {
	return &Links{cfg: cfg.withDefaults(), metrics: newMetrics(cfg.Registry, "out"), peers: make(map[Peer]*peer)}
}

// Send puts o on the link to p, and opens one where there is none. It never
// blocks. If it returns nil, done is called exactly once, with the answer, with
// ErrBroken, or with ErrNoLink where the link never came up; until then o belongs to the link. done is called from the link's
// goroutine and must not block. Otherwise Send returns ErrFull or ErrNoLink.
//
// After a link has ended Send opens the next one at once, also after a dial that
// failed. Once two dials in a row have failed, Send returns ErrNoLink until one
// succeeds. A dial runs then as long as orders come, with a back-off. An address
// that refuses connections is no such failure: each Send tries it again, and
// Observer.Dead is told.
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

// linkTo is the link that takes orders to p now, or nil. The caller holds mu.
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

// forget drops the peers of which nothing has been heard for long: a seller that
// was started again is a new peer. The caller holds mu.
func (ls *Links) forget() {
	for at, p := range ls.peers {
		if p.link == nil && ls.cfg.clock.now().Sub(p.endedAt) > unused {
			delete(ls.peers, at)
		}
	}
}

// open starts l as the link to p, which has none. The caller holds mu.
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

// Break ends the link to p now, if there is one: every order on it gets ErrBroken,
// and no answer of it is taken any more. The next Send opens a new one.
func (ls *Links) Break(p Peer) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if at := ls.peers[p]; at != nil && at.link != nil {
		at.link.end(errors.New("given up by its caller"))
	}
}

// LinkInfo is one link that is up.
type LinkInfo struct {
	Peer     Peer
	Replica  string // the seller's name for people
	UnderWay int    // orders without an answer
	Since    time.Time
}

// List returns the links that are up, sorted by replica.
func (ls *Links) List() []LinkInfo {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var list []LinkInfo
	for at, p := range ls.peers {
		if l := p.link; l != nil && l.isUp {
			list = append(list, LinkInfo{Peer: at, Replica: l.replica, UnderWay: len(l.waiting), Since: l.since})
		}
	}
	slices.SortFunc(list, func(a, b LinkInfo) int {
		return cmp.Or(cmp.Compare(a.Replica, b.Replica), cmp.Compare(a.Peer.Addr, b.Peer.Addr), cmp.Compare(a.Peer.Process, b.Peer.Process))
	})
	return list
}

// Close ends all links, whose orders get ErrBroken, and waits until nothing of
// them runs any more, or for ctx. Send returns ErrNoLink from now on.
func (ls *Links) Close(ctx context.Context) error {
	ls.mu.Lock()
	ls.isClosed = true
	for _, p := range ls.peers {
		if p.link != nil {
			p.link.end(errors.New("this process ends"))
		}
	}
	ls.mu.Unlock()

	ended := make(chan struct{})
	go func() { ls.all.Wait(); close(ended) }() // ends with the links, also after ctx
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kick wakes the goroutine that waits for c, now or when it waits next.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
