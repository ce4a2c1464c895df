package forward

import "time"

// watched is what the last tick of a link saw.
type watched struct {
	at      time.Time
	reads   uint64
	silent  int       // ticks in a row
	heardAt time.Time // or not known, because a tick was late
	usedAt  time.Time
}

// watch looks at the link at each tick, until it ends.
func (l *link) watch() {
	cfg := l.links.cfg
	ticks, stop := cfg.clock.ticker(cfg.Tick)
	defer stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticks:
			// Not the tick's own time, which says when it was due.
			l.tick(cfg.clock.now())
		}
	}
}

// tick tells the Observer what there is to tell, and ends a link that is of no use
// any more.
func (l *link) tick(now time.Time) {
	w, ls := &l.watched, l.links
	isLate := now.Sub(w.at) > ls.cfg.Tick*3/2
	w.at = now
	isHeard := l.isHeard(isLate)
	if isHeard || isLate {
		w.heardAt, w.silent = now, 0
	}

	var waiting []Waiting
	isRevived := false
	ls.mu.Lock()
	if l.isUsed || len(l.waiting) > 0 {
		w.usedAt, l.isUsed = now, false
	}
	if isHeard {
		isRevived, l.peer.isSilent = l.peer.isSilent, false
	}
	switch {
	case l.hasEnded:
	case now.Sub(w.usedAt) > unused:
		l.end(errUnused) // under mu, so that no order comes in between
	case now.Sub(w.heardAt) > unused:
		l.cancel(errStill)
	case isHeard || isLate:
	case len(l.waiting) == 0:
		w.silent = 0
	default:
		w.silent++
		waiting, l.peer.isSilent = l.distinct(nil), true
	}
	ls.mu.Unlock()

	if isRevived {
		ls.cfg.Observer.Revived(l.peer.Peer)
	}
	if waiting != nil {
		ls.cfg.Observer.Silent(l.peer.Peer, w.silent, waiting)
	}
}

// isHeard says whether something came since the last tick.
func (l *link) isHeard(isLate bool) bool {
	conn := l.conn.Load()
	if conn == nil {
		return false // not connected yet
	}
	reads := conn.reads.Load()
	if reads != l.watched.reads {
		l.watched.reads = reads
		return true
	}
	// Asked only where it matters: a late tick counts nothing anyway.
	return !isLate && conn.holdsBytes()
}
