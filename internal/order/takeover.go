package order

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
	"flashsale/internal/strategy"
)

// This file is how the lock is taken away from a seller that is dead or stands
// still. Its lease would end by itself, some seconds later; until then nobody
// could buy.
//
// The link to the seller tells: its process is gone, or it has been silent for
// some ticks while orders wait. Then this replica queues for the lock, removes the
// holder's place, and the first in the queue claims. That is safe whatever the
// holder does, because from the claim on MySQL refuses its token; with the lock
// alone it would not be. So only behind that fence: else the lease decides.
//
// Two replicas that cannot hear each other could take the lock from each other for
// ever, and sell nothing. So a holder that lives is asked first (it gives the lock
// up when another waits and its quantum is over), and the patience with silence
// doubles with each take-over that was done or suffered, up to the lease's time.

const (
	// linkTick is the time between two heartbeats of a link, and between two looks
	// for silence: with takeAfter of them a seller that stands still is taken over
	// within 300 ms.
	linkTick = 45 * time.Millisecond
	// queueAfter are the ticks of silence after which this replica queues for the
	// lock: before it takes it away, so that the holder cannot come before it.
	queueAfter = 2
	// takeAfter are the ticks after which it takes the lock away.
	takeAfter = 5
	// maxTakeAfter bounds the doubling: with linkTick about a lease.
	maxTakeAfter = 80
	// quietTime is the time without a take-over after which the patience is what it
	// was: about a lease.
	quietTime = 5 * time.Second
	// evictTimeout bounds the removal of a holder. If etcd does not answer, the
	// next tick tries again.
	evictTimeout = time.Second
	// maxDeaths bounds what is remembered of dead sellers, in some megabytes.
	maxDeaths = 1 << 14
	// evictAtOnce are the SKUs of one seller that are taken over side by side.
	evictAtOnce = 32
)

// Why a lock is taken away.
const (
	reasonDead   = "dead"
	reasonSilent = "silent"
)

// taking is the state of a replica's take-overs.
type taking struct {
	mu       sync.Mutex
	patience int
	last     time.Time
	under    map[forward.Peer]bool // take-overs that are under way
	deaths   map[[2]string]bool    // processes that were found dead, by the SKUs that they sold
}

// ticks is the silence after which a lock is taken away.
func (k *taking) ticks() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calmDown()
	return k.patience
}

// calmDown makes the patience what it was, after a quiet time. The caller holds mu.
func (k *taking) calmDown() {
	if k.patience == 0 || time.Since(k.last) > quietTime {
		k.patience = takeAfter
	}
}

// suffered says that a take-over was seen.
func (k *taking) suffered() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calmDown()
	if time.Since(k.last) > takeAfter*linkTick { // of many SKUs at once: one take-over
		k.patience = min(2*k.patience, maxTakeAfter)
	}
	k.last = time.Now()
}

// firstDeath reports whether a process is found dead for the first time as the seller
// of a SKU. A dead process cannot sell it again: one that does lives, and something
// on the way refuses its connections.
func (k *taking) firstDeath(process, sku string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	death := [2]string{process, sku}
	if k.deaths[death] {
		return false
	}
	if k.deaths == nil || len(k.deaths) >= maxDeaths {
		k.deaths = map[[2]string]bool{}
	}
	k.deaths[death] = true
	return true
}

// notTaken forgets a death whose lock could not be taken away: it is tried again.
func (k *taking) notTaken(process, sku string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.deaths, [2]string{process, sku})
}

// begin reports whether to take over from p: false while somebody does.
func (k *taking) begin(p forward.Peer) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.under[p] {
		return false
	}
	if k.under == nil {
		k.under = map[forward.Peer]bool{}
	}
	k.under[p] = true
	return true
}

func (k *taking) end(p forward.Peer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.under, p)
}

// contention is a desk's wish for the lock though another replica has it. It is
// safe for concurrent use.
type contention struct {
	mu     sync.Mutex
	wanted bool
	// since is when its seller was last heard of; zero where it may be well.
	since time.Time
	// cancel ends the wait for the lock; nil while the desk does not wait.
	cancel    context.CancelFunc
	calledOff bool
}

func (c *contention) ask(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = true
	if c.since.IsZero() {
		c.since = since
	}
}

func (c *contention) now() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted
}

// begin says that the desk asks for the lock, and reports whether it contends.
func (c *contention) begin(cancel context.CancelFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel, c.calledOff = cancel, false
	return c.wanted
}

// end says that the desk has its answer, and reports whether it was called off.
func (c *contention) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted, c.cancel = false, nil
	return c.calledOff
}

// callOff ends the wait for a lock whose seller was silent, and is heard again or has
// a successor.
func (c *contention) callOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wanted && !c.since.IsZero() {
		c.wanted, c.calledOff, c.since = false, true, time.Time{}
		if c.cancel != nil {
			c.cancel()
		}
	}
}

// drop gives the wish up, after the lock was not to be had.
func (c *contention) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted, c.since = false, time.Time{}
}

// vacantSince returns since when nobody sold, once.
func (c *contention) vacantSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := c.since
	c.since = time.Time{}
	return since
}

// contend makes the desk of a SKU queue for its lock. since is when the seller was
// last heard of, zero where that is not the reason.
func (ds *desks) contend(sku string, since time.Time) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return
	}
	d := ds.deskOf(sku)
	if d.token.Load() == 0 {
		d.contends.ask(since)
		d.queue.wake()
	}
}

// Silent is the link's word that a seller has not been heard of for so many ticks,
// while orders wait for it.
func (ds *desks) Silent(p forward.Peer, ticks int, waiting []forward.Waiting) {
	since := time.Now().Add(-time.Duration(ticks) * linkTick)
	if ticks >= queueAfter {
		for _, w := range waiting {
			ds.contend(w.SKU, since)
		}
	}
	switch {
	case ticks >= ds.taking.ticks():
		ds.takeOver(p, waiting, since, reasonSilent)
	case ticks >= queueAfter && ds.anyEnded(waiting):
		// It has given up the lock, or another replica was less patient. Its answers
		// may have been lost: what waits for them is to be sent to whoever sells now.
		ds.leave(p, waiting)
	}
}

// anyEnded reports whether a tenure that orders were sent to has ended.
func (ds *desks) anyEnded(waiting []forward.Waiting) bool {
	return slices.ContainsFunc(waiting, func(w forward.Waiting) bool {
		holder, known := ds.viewer.Holder(w.SKU)
		return !known || holder.Token != lock.Token(w.Token)
	})
}

// leave sends the orders that wait for p elsewhere. A SKU whose new seller is known
// is no longer queued for: of many replicas that missed the old one each would sell
// for a quantum, one after the other.
func (ds *desks) leave(p forward.Peer, waiting []forward.Waiting) {
	ds.mu.Lock()
	for _, w := range waiting {
		holder, known := ds.viewer.Holder(w.SKU)
		if d := ds.open[w.SKU]; d != nil && known && !holder.Mine && holder.Token != lock.Token(w.Token) {
			d.contends.callOff()
		}
	}
	ds.mu.Unlock()
	// Orders may be sent again only once no answer of this link is taken.
	ds.links.Break(p)
}

// Revived is the link's word that a seller is heard again.
func (ds *desks) Revived(forward.Peer) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.open {
		d.contends.callOff()
	}
}

// Dead is the link's word that a seller's process is gone.
func (ds *desks) Dead(p forward.Peer, waiting []forward.Waiting) {
	ds.takeOver(p, waiting, time.Now(), reasonDead)
}

// takeOver takes the locks of the SKUs that are waited for from p, and sends their
// orders elsewhere. It does not wait.
func (ds *desks) takeOver(p forward.Peer, waiting []forward.Waiting, since time.Time, reason string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed || !ds.taking.begin(p) {
		return
	}
	ds.forwarding.Go(func() {
		defer ds.taking.end(p)
		taken := map[forward.Waiting]bool{}
		var all errgroup.Group
		all.SetLimit(evictAtOnce)
		for _, w := range waiting {
			if taken[w] {
				continue
			}
			taken[w] = true
			if reason == reasonDead && !ds.taking.firstDeath(p.Process, w.SKU) {
				ds.contend(w.SKU, time.Time{}) // it lives: take turns
				continue
			}
			ds.contend(w.SKU, since)
			if ds.cfg.Fence == strategy.FenceClaim {
				all.Go(func() error { return ds.evict(p, w, reason) })
			}
		}
		if err := all.Wait(); err != nil {
			ds.cfg.Logger.Warn("could not take over from a seller; trying again", "from", p.Addr, "reason", reason, "error", err)
			return
		}
		if reason == reasonSilent {
			ds.taking.suffered()
		}
		ds.leave(p, waiting)
	})
}

// evict removes the grant of a seller.
func (ds *desks) evict(p forward.Peer, w forward.Waiting, reason string) error {
	ctx, cancel := context.WithTimeout(ds.ctx, evictTimeout)
	defer cancel()
	err := ds.viewer.Evict(ctx, w.SKU, lock.Token(w.Token))
	if errors.Is(err, lock.ErrNotHeld) {
		return nil // somebody was faster, or it has given the lock up
	}
	if err != nil {
		ds.taking.notTaken(p.Process, w.SKU)
		return err
	}
	ds.cfg.Metrics.TakeOvers.WithLabelValues(reason).Inc()
	ds.cfg.Logger.Warn("took a SKU over from a seller that does not answer", "sku", w.SKU, "from", p.Addr, "token", w.Token, "reason", reason)
	return nil
}
