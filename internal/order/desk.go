package order

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/record"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// DeskConfig tunes the desks of a replica. A zero field takes its default.
type DeskConfig struct {
	Queue    int // bounds the orders that wait at one desk; further ones are ErrBusy
	MaxBatch int // bounds the orders of one SKU in a transaction
	// Quantum bounds a tenure while another replica waits for the lock. It waits
	// because it cannot forward its orders to this replica.
	Quantum time.Duration
	Idle    time.Duration // how long a tenure, and after it the desk, stays open without work
}

const (
	defaultQueue    = 4096 // about half a second of a hot SKU's orders
	defaultMaxBatch = 512  // keeps a packet under 1 MiB even with customers and keys of full length
	// DefaultQuantum is a compromise for replicas that take turns: a longer one means
	// fewer hand-overs, but a buyer at the last of four replicas waits for 150 ms.
	DefaultQuantum = 50 * time.Millisecond
	// defaultIdle avoids taking the lock for each order when orders are rare. Each
	// grant writes two entries to etcd, which keeps them until it compacts.
	defaultIdle = 10 * time.Second

	// deskBackoff is the first wait after a lock or a claim failed. It doubles up to
	// deskMaxBackoff, so that a recovered server is used within a second.
	deskBackoff    = 20 * time.Millisecond
	deskMaxBackoff = time.Second
	// changePause is the minimum time between two transactions of changes at a replica
	// that does not sell. Each makes the seller decide its batch again; without the
	// pause the seller might never commit one.
	changePause   = 5 * time.Millisecond
	pingTimeout   = 250 * time.Millisecond // many times longer than a usable database needs
	unlockTimeout = time.Second            // also applies after the request's deadline
)

func (c DeskConfig) withDefaults() DeskConfig {
	return DeskConfig{cmp.Or(c.Queue, defaultQueue), cmp.Or(c.MaxBatch, defaultMaxBatch),
		cmp.Or(c.Quantum, DefaultQuantum), cmp.Or(c.Idle, defaultIdle)}
}

// desk sells one SKU: it gathers the waiting orders and commits them in batches while
// it holds the SKU's lock. Only its own goroutine uses it, except for queue, token and
// contention.
type desk struct {
	cfg   *Config
	desks *desks
	sku   string
	queue *queue
	// token is that of the tenure that takes orders; zero between tenures. It changes
	// under desks.mu, so that no order is queued for a tenure that has ended.
	token      atomic.Uint64
	contention contention
	// alone keeps the next batch out of groups, because the last one waited for a
	// lock of another client, which must not delay other SKUs again.
	alone bool
	wait  time.Duration // back-off after the last failure; zero after a success
}

func (d *desk) run() {
	for d.awaitWork() {
		if next := d.queue.oldest(); len(next) > 0 && next[0].change != nil {
			if d.cfg.Fence == strategy.FenceClaim {
				d.applyChanges()
				continue
			}
			// Without the claim a seller would not notice the change: take the lock first.
			d.contention.ask(time.Time{})
		}
		err := d.holdTenure()
		switch {
		case err == nil:
		case errors.Is(err, lock.ErrHeld):
			d.wait = 0
			d.refuseAll(errMoved) // the holder sells
		default:
			d.cfg.Logger.Warn("desk failed; retrying", "sku", d.sku, "error", err)
			d.wait = min(max(2*d.wait, deskBackoff), deskMaxBackoff)
			if sleep.For(d.desks.ctx, d.wait) != nil {
				d.refuseAll(errClosing) // close ran out of time
			}
		}
	}
}

// awaitWork waits for work. It returns false once the desk has closed.
func (d *desk) awaitWork() bool {
	for !d.hasWork() && !d.contention.active() {
		select {
		case <-d.queue.arrived:
			continue
		case <-time.After(d.cfg.Desk.Idle):
		case <-d.desks.selling.Done():
		}
		if d.closeIfEmpty() {
			return false
		}
	}
	return true
}

func (d *desk) closeIfEmpty() bool {
	d.desks.mu.Lock()
	defer d.desks.mu.Unlock()
	if d.queue.len() > 0 || d.contention.active() {
		return false
	}
	delete(d.desks.open, d.sku)
	d.cfg.Metrics.Desks.Dec()
	return true
}

// hasWork first drops the orders whose callers have left.
func (d *desk) hasWork() bool {
	d.cfg.Metrics.Waiting.Sub(float64(d.queue.drop(time.Now())))
	return d.queue.len() > 0
}

func (d *desk) gather() []*ticket {
	d.cfg.yield(d.desks.ctx, d.sku)
	batch, moved, left := d.queue.gather(d.cfg.Desk.MaxBatch, lock.Token(d.token.Load()))
	d.cfg.Metrics.Waiting.Sub(float64(len(batch) + len(moved) + left))
	for _, t := range moved {
		t.answer(Placed{}, errMoved)
	}
	return batch
}

func (d *desk) putBack(batch []*ticket) {
	again := make([]*ticket, 0, len(batch))
	for _, t := range batch {
		if t.putBack(d.cfg.Tracer) {
			again = append(again, t)
		}
	}
	d.cfg.Metrics.Waiting.Add(float64(len(again)))
	d.queue.putBack(again)
}

// applyChanges needs no lock: changes advance seq, which every batch of orders compares.
func (d *desk) applyChanges() {
	batch := d.gather()
	if len(batch) == 0 {
		return
	}
	if batch[0].change == nil { // the callers of the changes have just left
		d.putBack(batch)
		return
	}
	d.apply(batch)
	ctx, cancel := context.WithTimeout(d.desks.ctx, commitTimeout)
	defer cancel()
	if row, err := d.cfg.database.Get(ctx, d.sku); err == nil {
		d.cfg.Mirror.Changed(d.sku, row.Available)
	}
	_ = sleep.For(d.desks.selling, changePause)
}

func (d *desk) apply(batch []*ticket) {
	d.cfg.yield(d.desks.ctx, d.sku)
	changes := make([]change, len(batch))
	for i, t := range batch {
		changes[i] = *t.change
	}
	ctx := d.cfg.spanOf(d.desks.ctx, batch)
	d.cfg.apply(ctx, d.sku, changes, func(i int, err error) { batch[i].answer(Placed{}, err) })
}

// holdTenure takes the lock, sells, and releases the lock. It returns lock.ErrHeld if
// another replica sells. After any other error the desk backs off.
func (d *desk) holdTenure() error {
	d.cfg.yield(d.desks.ctx, d.sku)
	if d.wait > 0 {
		// Without MySQL, taking the lock would only keep it from replicas that can use it.
		ctx, cancel := context.WithTimeout(d.desks.ctx, pingTimeout)
		err := d.cfg.database.Ping(ctx)
		cancel()
		if err != nil {
			d.contention.end(err)
			d.answerAll(err)
			return fmt.Errorf("MySQL does not answer: %w", err)
		}
	}
	held, err := d.lock()
	if err != nil {
		return err
	}
	granted := time.Now()
	d.setToken(held.Token())
	t := &tenure{cfg: d.cfg, desk: d, held: held, era: new(era), claim: stock.Claim{SKU: d.sku, Token: held.Token(), Fence: d.cfg.Fence}}
	err = t.run()
	d.setToken(0)
	if t.contended() {
		d.cfg.Metrics.HandOvers.Inc()
	}
	unlockErr := d.cfg.unlock(d.desks.ctx, d.sku, held, granted)
	d.cfg.noteUnlock(d.sku, nil, held, unlockErr)
	if errors.Is(unlockErr, lock.ErrLost) {
		if loss, ok := held.(lock.LossReporter); !ok || !loss.TimedOut() {
			d.desks.takeOvers.record() // another replica took it
		}
	}
	d.answerAll(err)
	return err
}

// lock waits for the lock if the desk contends for it or cannot know its holder. Otherwise
// it only tries to take it.
func (d *desk) lock() (lock.Held, error) {
	d.cfg.At(BeforeLock)
	// After the request timeout, all orders that wait now will have left.
	ctx, cancel := context.WithTimeout(d.desks.ctx, d.cfg.RequestTimeout)
	defer cancel()
	ask := d.cfg.Locker.TryLock
	if d.contention.begin(cancel) || d.desks.viewer == nil {
		ask = d.cfg.Locker.Lock
	}
	d.cfg.note(record.LockAsked, d.sku, nil, 0, nil)
	held, err := d.cfg.lock(d.cfg.spanOf(ctx, d.queue.oldest()), d.sku, time.Now(), ask)
	d.cfg.noteLock(d.sku, nil, held, err)
	if d.contention.end(err) && err != nil {
		return nil, lock.ErrHeld // the seller answers again
	}
	return held, err
}

// lock takes a SKU's lock by calling ask. The wait counts from began.
func (cfg *Config) lock(ctx context.Context, sku string, began time.Time, ask func(context.Context, string) (lock.Held, error)) (lock.Held, error) {
	ctx, end := cfg.step(ctx, "lock wait", ofSKU(sku))
	held, err := ask(ctx, sku)
	end(err)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", sku, err)
	}
	cfg.Metrics.LockWait.Observe(time.Since(began).Seconds())
	cfg.Metrics.Held.Inc()
	return held, nil
}

// unlock releases a SKU's lock, also after ctx's end, and logs a failure.
func (cfg *Config) unlock(ctx context.Context, sku string, held lock.Held, granted time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	err := held.Unlock(ctx)
	cfg.Metrics.Held.Dec()
	cfg.Metrics.LockHold.Observe(time.Since(granted).Seconds())
	switch {
	case errors.Is(err, lock.ErrLost):
		cfg.Metrics.LockLosses.Inc()
		cfg.Logger.WarnContext(ctx, "lost a lock: its grant expired or was revoked", "sku", sku, "token", held.Token(), "held", time.Since(granted).String())
	case err != nil:
		cfg.Logger.WarnContext(ctx, "unlock failed", "sku", sku, "token", held.Token(), "error", err)
	}
	return err
}

func (d *desk) setToken(token lock.Token) {
	d.desks.mu.Lock()
	defer d.desks.mu.Unlock()
	d.token.Store(uint64(token))
}

// answerAll answers all waiting tickets after a tenure has ended with err, or could
// not begin. An order that was sent to one tenure must not wait for the next one: its
// sender looks up the new seller. If MySQL is read-only, there is no seller.
func (d *desk) answerAll(err error) {
	answer := errMoved
	if stock.IsReadOnly(err) {
		answer = unavailable(err)
	}
	d.refuseAll(answer)
}

func (d *desk) refuseAll(err error) {
	all := d.queue.empty()
	d.cfg.Metrics.Waiting.Sub(float64(len(all)))
	for _, t := range all {
		if t.take() {
			t.answer(Placed{}, err)
		}
	}
}
