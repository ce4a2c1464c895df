package order

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/sleep"
)

// DeskConfig tunes the desks of a replica. A zero field takes its default.
type DeskConfig struct {
	// Queue bounds the orders that wait at one desk; beyond it ErrBusy.
	Queue int
	// MaxBatch bounds the orders of one transaction.
	MaxBatch int
	// Quantum is how long a tenure lasts at most while another replica waits.
	// Least is how long it lasts though its batches empty the queue: as long as
	// there is something to sell.
	Quantum, Least time.Duration
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
	// DefaultQuantum is a compromise: the longer, the fewer hand-overs; and a
	// buyer at the last of four replicas waits 150 ms.
	DefaultQuantum = 50 * time.Millisecond
	// defaultLeast keeps the SKU from being without a holder for half of the
	// time: on busy cores a hand-over takes as long as a batch (docs/performance.md).
	defaultLeast = 20 * time.Millisecond
	// defaultIdle spares a trickle of orders the lock for each of them.
	defaultIdle = 2 * time.Second

	// deskBackoff is the first wait after a lock or a claim failed, doubled up
	// to deskMaxBackoff: a server that is back is used within a second.
	deskBackoff    = 20 * time.Millisecond
	deskMaxBackoff = time.Second
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
	if c.Least == 0 {
		c.Least = defaultLeast
	}
	if c.Idle == 0 {
		c.Idle = defaultIdle
	}
	return c
}

// desks are the open desks of a replica: one goroutine for each SKU in use.
type desks struct {
	cfg     *Config
	ctx     context.Context // of all desks; ends when close runs out of time
	stop    context.CancelFunc
	selling context.Context // ends with the call of close: sell what waits, then end
	endSale context.CancelFunc
	running sync.WaitGroup
	// committer is what the desks write through.
	committer *committer
	expiries  expiries
	// quantum is DeskConfig.Quantum, as it may have been changed since.
	quantum atomic.Int64

	mu     sync.Mutex
	open   map[string]*desk
	closed bool
}

func newDesks(cfg *Config) *desks {
	cfg.Desk = cfg.Desk.withDefaults()
	// Desks outlive the requests that open them; close ends this context.
	ctx, stop := context.WithCancel(context.Background())
	selling, endSale := context.WithCancel(ctx)
	ds := &desks{
		cfg: cfg, ctx: ctx, stop: stop, selling: selling, endSale: endSale, open: map[string]*desk{},
		expiries: expiries{after: cfg.RequestTimeout},
	}
	ds.setQuantum(cfg.Desk.Quantum)
	// A desk waits for its lane's answer, so that a lane never starts after the
	// last desk has ended.
	ds.committer = &committer{cfg: cfg, start: ds.running.Go}
	return ds
}

func (ds *desks) setQuantum(d time.Duration) { ds.quantum.Store(int64(d)) }

// quantumOver reports whether a tenure that has lasted for d has had its time.
func (ds *desks) quantumOver(d time.Duration) bool { return d >= time.Duration(ds.quantum.Load()) }

// sell hands r to its SKU's desk and waits for the answer.
func (ds *desks) sell(ctx context.Context, r Request) (Placed, error) {
	return ds.await(ctx, newTicket(r))
}

// alter lets the SKU's desk make the change: it holds the lock then, here and on
// every other replica what was remembered is read again afterwards.
func (ds *desks) alter(ctx context.Context, sku string, c change) error {
	t := newTicket(Request{SKU: sku})
	t.change = &c
	_, err := ds.await(ctx, t)
	return err
}

func (ds *desks) await(ctx context.Context, t *ticket) (Placed, error) {
	t.request = ctx
	t.waitsFrom(ds.cfg.Tracer)
	if err := ds.enqueue(t); err != nil {
		t.waited(err)
		return Placed{}, err
	}
	select {
	case a := <-t.answered:
		return a.placed, a.err
	case <-ctx.Done():
	case <-ds.expiries.next():
	}
	if t.leave() {
		t.waited(ErrUnavailable)
		if t.twin.Load() {
			return Placed{}, ErrInFlight
		}
		return Placed{}, fmt.Errorf("%w: %s is still being waited for", ErrUnavailable, t.req.SKU)
	}
	select {
	case a := <-t.answered: // it came at the last moment
		return a.placed, a.err
	default:
		return Placed{}, fmt.Errorf("%w: its batch is not yet answered", ErrUnknown)
	}
}

// enqueue never blocks. The mutex makes sure that no ticket enters the queue of
// a desk that is about to close.
func (ds *desks) enqueue(t *ticket) error {
	if err := ds.cfg.Halted(); err != nil {
		return err
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return fmt.Errorf("%w: this replica is shutting down", ErrUnavailable)
	}
	d, ok := ds.open[t.req.SKU]
	if !ok {
		d = &desk{desks: ds, cfg: ds.cfg, sku: t.req.SKU, queue: newQueue(), recent: newRecent()}
		ds.open[t.req.SKU] = d
		ds.cfg.Metrics.Desks.Inc()
		ds.running.Go(d.run)
	}
	if !d.queue.put(t, ds.cfg.Desk.Queue) {
		ds.cfg.Metrics.Full.Inc()
		return ErrBusy
	}
	ds.cfg.Metrics.Waiting.Inc()
	return nil
}

func (ds *desks) close(ctx context.Context) error {
	ds.mu.Lock()
	ds.closed = true
	ds.mu.Unlock()
	ds.endSale()
	defer ds.stop()
	ended := make(chan struct{})
	go func() { ds.running.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	// Every wait of a desk ends with this context, so this one is short.
	ds.stop()
	<-ended
	return fmt.Errorf("desks were closed with orders waiting: %w", ctx.Err())
}

// desk sells one SKU: it gathers the orders that wait, and commits them in
// groups while it holds the SKU's lock. Only its own goroutine touches it, but
// for the queue.
type desk struct {
	*desks
	cfg   *Config
	sku   string
	queue *queue
	// pending were gathered already, and come before the queue.
	pending []*ticket
	// recent remembers orders by their keys. An order once made stays the
	// answer to its key, so that what is remembered is never stale.
	recent *recent
	// alone keeps the next batch out of groups: the row, or a key, was locked by
	// a stranger the last time, which need not hold other SKUs up again.
	alone bool
	// wait is the next back-off after a failure; zero after a success.
	wait time.Duration
}

func (d *desk) run() {
	for d.awaitWork() {
		if err := d.holdTenures(); err != nil {
			d.cfg.Logger.Warn("desk", "sku", d.sku, "error", err)
			d.backOff()
		}
	}
}

// awaitWork waits for an order. It returns false when the desk has closed:
// nothing came for the idle time, or the replica shuts down and nothing waits.
func (d *desk) awaitWork() bool {
	for !d.hasWork() {
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
	if !d.queue.empty() {
		return false
	}
	delete(d.open, d.sku)
	d.cfg.Metrics.Desks.Dec()
	return true
}

// hasWork forgets the orders whose callers have gone, so that a lock is not
// asked for on their behalf, nor their places in the queue kept from others.
func (d *desk) hasWork() bool {
	all := d.fetch()
	waiting := all[:0]
	for _, t := range all {
		if t.waits() {
			waiting = append(waiting, t)
		} else {
			d.cfg.Metrics.Waiting.Dec()
		}
	}
	clear(all[len(waiting):])
	d.pending = waiting
	return len(waiting) > 0
}

// fetch moves what is in the queue to what is pending.
func (d *desk) fetch() []*ticket {
	d.pending = d.queue.take(d.pending, d.cfg.Desk.Queue-len(d.pending))
	return d.pending
}

// gather takes what waits, up to the bound, without waiting for more: whatever
// queued up during the last commit is the next batch. It is of orders alone, or
// of changes of the SKU alone, whichever has waited longest. The others of the
// two come next: each batch ends with a commit, and one for each change between
// orders would leave little time for any.
func (d *desk) gather() []*ticket {
	all := d.fetch()
	if len(all) == 0 {
		return nil
	}
	var batch []*ticket
	changes := all[0].change != nil
	seen, others := 0, 0 // others are at the front of those seen
	for ; seen < len(all) && len(batch) < d.cfg.Desk.MaxBatch; seen++ {
		t := all[seen]
		if (t.change != nil) != changes {
			all[others] = t
			others++
			continue
		}
		d.cfg.Metrics.Waiting.Dec()
		if t.take() {
			batch = append(batch, t)
		}
	}
	copy(all[seen-others:], all[:others])
	clear(all[:seen-others])
	d.pending = all[seen-others:]
	return batch
}

// putBack lets orders of a batch wait again, before all others. They may be
// left by their callers again from here on.
func (d *desk) putBack(batch []*ticket) {
	again := make([]*ticket, 0, len(batch)+len(d.pending))
	for _, t := range batch {
		if t.putBack() {
			again = append(again, t)
		}
	}
	d.cfg.Metrics.Waiting.Add(float64(len(again)))
	d.pending = append(again, d.pending...)
}

// backOff waits after a failure, longer after each further one.
func (d *desk) backOff() {
	d.wait = min(max(2*d.wait, deskBackoff), deskMaxBackoff)
	if sleep.For(d.ctx, d.wait) != nil {
		d.abandon()
	}
}

// abandon refuses all that still waits when the replica's time to close is over.
func (d *desk) abandon() {
	for len(d.fetch()) > 0 {
		for _, t := range d.gather() {
			t.answer(Placed{}, fmt.Errorf("%w: this replica is shutting down", ErrUnavailable))
		}
	}
}
