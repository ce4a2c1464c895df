package forward

import "time"

// watched is the state of a link at its last tick.
type watched struct {
	at      time.Time
	reads   uint64
	silent  int       // ticks in a row
	heardAt time.Time // the last tick at which something was read, or that was late
	usedAt  time.Time
}

// watch calls tick at each tick until the link ends.
func (l *link) watch() {
	cfg := l.links.cfg
	ticks, stop := cfg.clock.ticker(cfg.Tick)
	defer stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticks:
			// Not the tick's own time, which is when it was due.
			l.tick(cfg.clock.now())
		}
	}
}

// tick reports silence and its end to the Observer, and ends an unused link.
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
		l.end(errUnused) // while mu is held, so that no order is lost
	case now.Sub(w.heardAt) > unused:
		l.cancel(errNothing)
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

// isHeard reports whether something arrived since the last tick.
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
	// A late tick does not count anyway, so the system call is saved.
	return !isLate && conn.holdsBytes()
}
