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

// This file is how a replica takes the lock from a seller that is dead or does not
// respond. Waiting for its lease to end would stop the sale for some seconds.
//
// The link to the seller detects the failure: the process is gone, or the link was
// silent for some ticks while orders wait. This replica then queues for the lock and
// removes the holder's entry; the first in the queue claims the row. The claim makes that
// safe, because MySQL then refuses the old token. Without a claim the lease decides.
//
// Two replicas that cannot reach each other must not take the lock from each other all
// the time. So a live holder is first asked for the lock, which it releases after its
// quantum, and each take-over doubles the ticks of silence before the next, up to a lease.

const (
	// linkTick is the time between two heartbeats of a link, and between two checks for
	// silence. With takeAfter of them, a stopped seller is replaced within 300 ms.
	linkTick = 45 * time.Millisecond
	// queueAfter is how many silent ticks it takes until this replica queues for the
	// lock. It is less than takeAfter, so that the evicted holder cannot queue first.
	queueAfter = 2
	// takeAfter is how many silent ticks it takes until this replica takes the lock, and
	// maxTakeAfter bounds its doubling to about a lease.
	takeAfter    = 5
	maxTakeAfter = 80
	quietTime    = 5 * time.Second // so long without a take-over resets the patience; about a lease
	evictTimeout = time.Second     // bounds the removal of a holder. The next tick tries again.
	maxDeaths    = 1 << 14         // of remembered sellers: a few megabytes
	evictAtOnce  = 32              // SKUs of one seller that are taken over at the same time
)

const (
	reasonDead   = "dead"
	reasonSilent = "silent"
)

// takeOvers is the state of a replica's take-overs. It is safe for concurrent use.
type takeOvers struct {
	active sync.Map // forward.Peer -> true: take-overs that are under way

	mu       sync.Mutex
	patience int // ticks of silence before a take-over
	last     time.Time
	deaths   map[[2]string]bool // process and SKU of sellers that were found dead
}

// ticks returns the patience.
func (k *takeOvers) ticks() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.patience == 0 || time.Since(k.last) > quietTime {
		k.patience = takeAfter
	}
	return k.patience
}

// record notes that a take-over was done or seen, and doubles the patience.
func (k *takeOvers) record() {
	patience := k.ticks()
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.last) > takeAfter*linkTick { // those of many SKUs at once count as one
		k.patience = min(2*patience, maxTakeAfter)
	}
	k.last = time.Now()
}

// firstDeath reports whether a process is found dead for the first time as the seller of
// a SKU. The second time, it must be alive, and something on the way refuses connections.
func (k *takeOvers) firstDeath(process, sku string) bool {
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

// contention is a desk's request for a lock that another replica has. It is safe for
// concurrent use.
type contention struct {
	mu        sync.Mutex
	asked     bool               // the desk asks, or should ask, for the lock
	since     time.Time          // the seller's last sign of life; zero if it may be healthy
	cancel    context.CancelFunc // ends the wait for the lock; nil while the desk does not wait
	calledOff bool
}

func (c *contention) ask(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = true
	if c.since.IsZero() {
		c.since = since
	}
}

func (c *contention) active() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked
}

// begin records that the desk asks for the lock, and reports whether it has to wait for it.
func (c *contention) begin(cancel context.CancelFunc) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel, c.calledOff = cancel, false
	return c.asked
}

// end records whether the desk got the lock, and reports whether its wait was called off.
func (c *contention) end(err error) (calledOff bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.cancel = false, nil
	if err != nil {
		c.since = time.Time{}
	}
	return c.calledOff
}

// callOff ends the wait for a silent seller, which responds again or has a successor.
func (c *contention) callOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked && !c.since.IsZero() {
		c.asked, c.calledOff, c.since = false, true, time.Time{}
		if c.cancel != nil {
			c.cancel()
		}
	}
}

// takeLastSign returns the seller's last sign of life, and resets it.
func (c *contention) takeLastSign() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := c.since
	c.since = time.Time{}
	return since
}

// contend makes the desk of a SKU queue for its lock. since is when the seller last sent
// a sign of life, or zero if there is another reason.
func (ds *desks) contend(sku string, since time.Time) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return
	}
	d := ds.deskOf(sku)
	if d.token.Load() == 0 {
		d.contention.ask(since)
		d.queue.wake()
	}
}

// Silent is called by the link while orders wait for a seller that is silent.
func (ds *desks) Silent(p forward.Peer, ticks int, waiting []forward.Waiting) {
	since := time.Now().Add(-time.Duration(ticks) * linkTick)
	if ticks >= queueAfter {
		for _, w := range waiting {
			ds.contend(w.SKU, since)
		}
	}
	ended := func(w forward.Waiting) bool {
		holder, found := ds.viewer.Holder(w.SKU)
		return !found || holder.Token != lock.Token(w.Token)
	}
	switch {
	case ticks >= ds.takeOvers.ticks():
		ds.takeOver(p, waiting, since, reasonSilent)
	case ticks >= queueAfter && slices.ContainsFunc(waiting, ended):
		// It has released a lock, or a less patient replica has taken it. Its answers
		// may have been lost, so send the waiting orders to the new seller.
		ds.leave(p, waiting)
	}
}

// leave sends the orders that wait for p elsewhere. It stops queueing for SKUs that have a
// new seller. Otherwise many replicas would take over and sell for a quantum, in turn.
func (ds *desks) leave(p forward.Peer, waiting []forward.Waiting) {
	ds.mu.Lock()
	for _, w := range waiting {
		holder, found := ds.viewer.Holder(w.SKU)
		if d := ds.open[w.SKU]; d != nil && found && !holder.Mine && holder.Token != lock.Token(w.Token) {
			d.contention.callOff()
		}
	}
	ds.mu.Unlock()
	// Orders may be sent again only once this link delivers no more answers.
	ds.links.Break(p)
}

// Revived is called by the link when a silent seller responds again.
func (ds *desks) Revived(forward.Peer) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	for _, d := range ds.open {
		d.contention.callOff()
	}
}

// Dead is called by the link when a seller's process is gone.
func (ds *desks) Dead(p forward.Peer, waiting []forward.Waiting) {
	ds.takeOver(p, waiting, time.Now(), reasonDead)
}

// takeOver takes the locks that orders wait for at p, and sends the orders elsewhere. It
// does not block.
func (ds *desks) takeOver(p forward.Peer, waiting []forward.Waiting, since time.Time, reason string) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return
	}
	if _, active := ds.takeOvers.active.LoadOrStore(p, true); active {
		return
	}
	ds.forwarding.Go(func() {
		defer ds.takeOvers.active.Delete(p)
		seen := map[forward.Waiting]bool{}
		var all errgroup.Group
		all.SetLimit(evictAtOnce)
		for _, w := range waiting {
			if seen[w] {
				continue
			}
			seen[w] = true
			if reason == reasonDead && !ds.takeOvers.firstDeath(p.Process, w.SKU) {
				ds.contend(w.SKU, time.Time{}) // it is alive: take turns
				continue
			}
			ds.contend(w.SKU, since)
			if ds.cfg.Fence == strategy.FenceClaim {
				all.Go(func() error { return ds.evict(p, w, reason) })
			}
		}
		if err := all.Wait(); err != nil {
			ds.cfg.Logger.Warn("take-over failed; retrying", "from", p.Addr, "reason", reason, "error", err)
			return
		}
		if reason == reasonSilent {
			ds.takeOvers.record()
		}
		ds.leave(p, waiting)
	})
}

func (ds *desks) evict(p forward.Peer, w forward.Waiting, reason string) error {
	ctx, cancel := context.WithTimeout(ds.ctx, evictTimeout)
	defer cancel()
	err := ds.viewer.Evict(ctx, w.SKU, lock.Token(w.Token))
	if errors.Is(err, lock.ErrNotHeld) {
		return nil // another replica was faster, or the seller has released the lock
	}
	if err != nil {
		ds.takeOvers.mu.Lock()
		delete(ds.takeOvers.deaths, [2]string{p.Process, w.SKU}) // so that it is tried again
		ds.takeOvers.mu.Unlock()
		return err
	}
	ds.cfg.noteTakeOver(w, p, reason)
	ds.cfg.Metrics.TakeOvers.WithLabelValues(reason).Inc()
	ds.cfg.Logger.Warn("took over a SKU from a seller that does not respond", "sku", w.SKU, "from", p.Addr, "token", w.Token, "reason", reason)
	return nil
}
