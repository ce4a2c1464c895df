package order

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
)

// DeskConfig tunes the desks of a replica. A zero field takes its default.
type DeskConfig struct {
	// Queue bounds the orders that wait at one desk; beyond it ErrBusy.
	Queue int
	// MaxBatch bounds the orders of one transaction.
	MaxBatch int
	// Quantum is how long a tenure lasts at most while another replica waits for
	// the lock: one that cannot send its orders to this replica.
	Quantum time.Duration
	// Idle is how long a tenure, and then the desk, outlasts the last order
	// when nobody waits.
	Idle time.Duration
}

const (
	// defaultQueue is about half a second of a hot SKU's orders.
	defaultQueue = 4096
	// defaultMaxBatch keeps a packet under 1 MiB even when every customer and
	// key has its full length.
	defaultMaxBatch = 512
	// DefaultQuantum is a compromise for replicas that cannot reach each other and
	// take turns: the longer, the fewer hand-overs; and a buyer at the last of
	// four replicas waits 150 ms.
	DefaultQuantum = 50 * time.Millisecond
	// defaultIdle spares a trickle of orders the lock for each of them: a grant and
	// its end are two entries in etcd, which keeps all of them until it compacts.
	defaultIdle = 10 * time.Second

	// deskBackoff is the first wait after a lock or a claim failed, doubled up
	// to deskMaxBackoff: a server that is back is used within a second.
	deskBackoff    = 20 * time.Millisecond
	deskMaxBackoff = time.Second
	// changePause is the least time between two transactions of changes at a replica
	// that does not sell: each makes the seller decide its batch again, and without
	// a pause it would never have one through. Changes gather meanwhile.
	changePause = 5 * time.Millisecond
	// pingTimeout is many times what a database takes that a sale can be held on.
	pingTimeout = 250 * time.Millisecond
)

func (c DeskConfig) withDefaults() DeskConfig {
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	if c.MaxBatch == 0 {
		c.MaxBatch = defaultMaxBatch
	}
	if c.Quantum == 0 {
		c.Quantum = DefaultQuantum
	}
	if c.Idle == 0 {
		c.Idle = defaultIdle
	}
	return c
}

// desk sells one SKU: it gathers the orders that wait, and commits them in
// groups while it holds the SKU's lock. Only its own goroutine touches it, but
// for the queue and what is said of other fields.
type desk struct {
	*desks
	cfg   *Config
	sku   string
	queue *queue
	// token is that of the tenure that takes orders; zero between two. It changes
	// under mu, so that no order is put into the queue for a tenure that has ended.
	token atomic.Uint64
	// contends asks for the lock though another replica has it: see takeover.go.
	contends contention
	// alone keeps the next batch out of groups: the row, or a key, was locked by
	// a stranger the last time, which need not hold other SKUs up again.
	alone bool
	// wait is the next back-off after a failure; zero after a success.
	wait time.Duration
}

func (d *desk) run() {
	for d.awaitWork() {
		if d.queue.changesNext() {
			if d.cfg.Fence == strategy.FenceClaim {
				d.applyChanges()
				continue
			}
			// Without the claim a seller would not notice the change: take the lock first.
			d.contends.ask(time.Time{})
		}
		err := d.holdTenure()
		switch {
		case err == nil:
		case errors.Is(err, lock.ErrHeld):
			d.wait = 0
			d.moveAll() // the holder sells
		default:
			d.cfg.Logger.Warn("desk", "sku", d.sku, "error", err)
			d.backOff()
		}
	}
}

// awaitWork waits for work. It returns false when the desk has closed: nothing
// came for the idle time, or the replica shuts down and nothing waits.
func (d *desk) awaitWork() bool {
	for !d.hasWork() && !d.contends.now() {
		idle := time.NewTimer(d.cfg.Desk.Idle)
		select {
		case <-d.queue.arrived:
			idle.Stop()
			continue
		case <-idle.C:
		case <-d.selling.Done():
			idle.Stop()
		}
		if d.closeIfEmpty() {
			return false
		}
	}
	return true
}

// closeIfEmpty closes the desk, unless something has come at the last moment.
func (d *desk) closeIfEmpty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.queue.len() > 0 || d.contends.now() {
		return false
	}
	delete(d.open, d.sku)
	d.cfg.Metrics.Desks.Dec()
	return true
}

// hasWork forgets the orders that nobody waits for any more, so that a lock is not
// asked for on their behalf, nor their places in the queue kept from others.
func (d *desk) hasWork() bool {
	d.cfg.Metrics.Waiting.Sub(float64(d.queue.drop(time.Now())))
	return d.queue.len() > 0
}

// gather takes the next batch off the queue.
func (d *desk) gather() []*ticket {
	batch, moved, left := d.queue.gather(d.cfg.Desk.MaxBatch, lock.Token(d.token.Load()))
	d.cfg.Metrics.Waiting.Sub(float64(len(batch) + len(moved) + left))
	for _, t := range moved {
		t.answer(Placed{}, errMoved)
	}
	return batch
}

// putBack lets orders of a batch wait again, before all others. They may be
// left by their callers again from here on.
func (d *desk) putBack(batch []*ticket) {
	again := make([]*ticket, 0, len(batch))
	for _, t := range batch {
		if t.putBack() {
			again = append(again, t)
		}
	}
	d.cfg.Metrics.Waiting.Add(float64(len(again)))
	d.queue.putBack(again)
}

// applyChanges makes the changes that wait, whoever sells. They need no lock: they
// advance seq, which every batch of orders compares.
func (d *desk) applyChanges() {
	batch := d.gather()
	if len(batch) == 0 {
		return
	}
	if batch[0].change == nil { // the changes' callers have just left
		d.putBack(batch)
		return
	}
	d.change(d.ctx, batch)
	ctx, cancel := context.WithTimeout(d.ctx, commitTimeout)
	defer cancel()
	if row, err := d.cfg.DB.Get(ctx, d.sku); err == nil {
		d.cfg.Mirror.Changed(d.sku, row.Available)
	}
	_ = sleep.For(d.selling, changePause)
}

// change makes the changes of a batch, and answers them.
func (d *desk) change(ctx context.Context, batch []*ticket) {
	changes := make([]change, len(batch))
	for i, t := range batch {
		changes[i] = *t.change
	}
	d.cfg.apply(d.cfg.spanOf(ctx, batch), d.sku, changes, func(i int, err error) { batch[i].answer(Placed{}, err) })
}

// holdTenure takes the lock, sells while there is a reason to hold it, and gives
// it back. lock.ErrHeld: another replica sells. Every other error asks for a pause
// before the next tenure.
func (d *desk) holdTenure() error {
	if d.wait > 0 {
		// The last tenure failed. Without MySQL the lock would only be kept from
		// replicas that can use it.
		if err := d.ping(); err != nil {
			d.contends.drop()
			d.partWith(err)
			return err
		}
	}
	held, err := d.lock()
	if err != nil {
		return err
	}
	granted := time.Now()
	d.setToken(held.Token())
	t := &tenure{desk: d, held: held, era: new(era), right: stock.Claim{SKU: d.sku, Token: held.Token(), Fence: d.cfg.Fence}}
	err = t.guarded()
	d.cfg.Metrics.Held.Dec()
	d.setToken(0)
	if t.wanted() {
		d.cfg.Metrics.HandOvers.Inc()
	}
	d.giveBack(held, granted)
	d.partWith(err)
	return err
}

// lock takes the lock if nobody has it; or, where the orders cannot be sent to
// whoever has it, queues for it.
func (d *desk) lock() (lock.Held, error) {
	asked := time.Now()
	// Orders that wait since now are gone after the request time-out.
	ctx, cancel := context.WithTimeout(d.ctx, d.cfg.RequestTimeout)
	defer cancel()
	ask := d.cfg.Locker.TryLock
	if d.contends.begin(cancel) || d.viewer == nil {
		ask = d.cfg.Locker.Lock
	}
	ctx, end := d.cfg.step(d.cfg.spanOf(ctx, d.queue.peek()), "lock wait", ofSKU(d.sku))
	held, err := ask(ctx, d.sku)
	end(err)
	if d.contends.end() && err != nil {
		return nil, lock.ErrHeld // it was called off: the seller answers again
	}
	if err != nil {
		d.contends.drop()
		return nil, fmt.Errorf("lock: %w", err)
	}
	d.cfg.Metrics.LockWait.Observe(time.Since(asked).Seconds())
	d.cfg.Metrics.Held.Inc()
	return held, nil
}

func (d *desk) setToken(token lock.Token) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.token.Store(uint64(token))
}

// partWith answers all that wait here once a tenure has ended, or could not begin.
// What was sent to one tenure never waits for the next: whoever sells then is asked
// by those whose orders these are. Where MySQL takes no writes, nobody sells.
func (d *desk) partWith(err error) {
	if stock.IsReadOnly(err) {
		d.refuseAll(fmt.Errorf("%w: %w", ErrUnavailable, err))
		return
	}
	d.moveAll()
}

// moveAll tells all that wait here to look again who sells.
func (d *desk) moveAll() { d.refuseAll(errMoved) }

// refuseAll answers all that wait here with err.
func (d *desk) refuseAll(err error) {
	all := d.queue.empty()
	d.cfg.Metrics.Waiting.Sub(float64(len(all)))
	for _, t := range all {
		if t.take() {
			t.answer(Placed{}, err)
		}
	}
}

func (d *desk) ping() error {
	ctx, cancel := context.WithTimeout(d.ctx, pingTimeout)
	defer cancel()
	if err := d.cfg.DB.Ping(ctx); err != nil {
		return fmt.Errorf("MySQL does not answer: %w", err)
	}
	return nil
}

func (d *desk) giveBack(held lock.Held, granted time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), unlockTimeout)
	defer cancel()
	err := held.Unlock(ctx)
	d.cfg.Metrics.LockHold.Observe(time.Since(granted).Seconds())
	switch {
	case errors.Is(err, lock.ErrLost):
		d.cfg.Metrics.LockLosses.Inc()
		d.cfg.Logger.Warn("lock was lost", "sku", d.sku, "token", held.Token())
		if silenced, ok := held.(lock.Silenced); !ok || !silenced.Silent() {
			d.taking.suffered() // somebody took it
		}
	case err != nil:
		// The back-end goes on trying; the lease ends it at the latest.
		d.cfg.Logger.Warn("unlock", "sku", d.sku, "error", err)
	}
}

// backOff waits after a failure, longer after each further one.
func (d *desk) backOff() {
	d.wait = min(max(2*d.wait, deskBackoff), deskMaxBackoff)
	if sleep.For(d.ctx, d.wait) != nil {
		d.refuseAll(errClosing) // the replica's time to close is over
	}
}
