package order

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
)

// desks are the open desks of a replica: one goroutine for each SKU in use. Their
// orders come from this replica's buyers, and from replicas that forward them.
type desks struct {
	cfg     *Config
	ctx     context.Context // of all desks; ends when close runs out of time
	stop    context.CancelFunc
	selling context.Context // ends with the call of close: sell what waits, then end
	endSale context.CancelFunc
	running sync.WaitGroup
	// committer is what the desks write through.
	committer *committer
	checker   *checker
	memory    *memory
	deadlines deadlines
	// quantum is DeskConfig.Quantum, as it may have been changed since.
	quantum atomic.Int64

	// viewer knows who sells each SKU; nil where the lock cannot tell.
	viewer lock.Viewer
	// links lead to the other sellers; nil where orders are not forwarded.
	links  *forward.Links
	server *forward.Server
	// forwarding are the goroutines that serve links, and those that take over.
	forwarding sync.WaitGroup
	taking     taking

	mu     sync.Mutex
	open   map[string]*desk
	closed bool
}

func newDesks(cfg *Config) *desks {
	cfg.Desk = cfg.Desk.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	selling, endSale := context.WithCancel(ctx)
	ds := &desks{
		cfg: cfg, ctx: ctx, stop: stop, selling: selling, endSale: endSale, open: map[string]*desk{},
		memory: newMemory(), deadlines: deadlines{after: cfg.RequestTimeout},
	}
	ds.viewer, _ = cfg.Locker.(lock.Viewer)
	ds.setQuantum(cfg.Desk.Quantum)
	// A desk waits for its lane's answer, so that a lane never starts after the
	// last desk has ended.
	ds.committer = &committer{cfg: cfg, start: ds.running.Go}
	ds.checker = &checker{cfg: cfg, start: ds.running.Go}
	ds.openForwarding()
	return ds
}

func (ds *desks) setQuantum(d time.Duration) { ds.quantum.Store(int64(d)) }

// quantumOver reports whether a tenure that has lasted for d has had its time.
func (ds *desks) quantumOver(d time.Duration) bool { return d >= time.Duration(ds.quantum.Load()) }

// alter lets the SKU's desk make the change, which knows whether the row is
// remembered here, and makes those that wait together at once.
func (ds *desks) alter(ctx context.Context, sku string, c change) error {
	t := newTicket(ctx, Request{SKU: sku})
	t.change = &c
	over := ds.deadlines.next()
	_, err := ds.atDesk(ctx, over, t)
	for ; errors.Is(err, errMoved); _, err = ds.atDesk(ctx, over, t) {
		t = newTicket(ctx, t.req)
		t.change = &c
	}
	return err
}

// atDesk hands a ticket to its SKU's desk on this replica, and waits for the
// answer.
func (ds *desks) atDesk(ctx context.Context, over <-chan struct{}, t *ticket) (Placed, error) {
	t.waitsFrom(ds.cfg.Tracer)
	if err := ds.enqueue(t); err != nil {
		t.waited(err)
		return Placed{}, err
	}
	select {
	case a := <-t.answered:
		return a.placed, a.err
	case <-ctx.Done():
	case <-over:
	}
	if t.leave() {
		t.waited(ErrUnavailable)
		return Placed{}, t.late()
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
		return errClosing
	}
	return ds.put(ds.deskOf(t.req.SKU), t)
}

var errClosing = fmt.Errorf("%w: this replica is shutting down", ErrUnavailable)

// deskOf is the open desk of a SKU. The caller holds mu.
func (ds *desks) deskOf(sku string) *desk {
	d, ok := ds.open[sku]
	if !ok {
		d = &desk{desks: ds, cfg: ds.cfg, sku: sku, queue: newQueue()}
		ds.open[sku] = d
		ds.cfg.Metrics.Desks.Inc()
		ds.running.Go(d.run)
	}
	return d
}

// put puts a ticket into the queue of an open desk. The caller holds mu.
func (ds *desks) put(d *desk, t *ticket) error {
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
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		// Every wait of a desk ends with this context, so this one is short.
		ds.stop()
		<-ended
		err = fmt.Errorf("desks were closed with orders waiting: %w", ctx.Err())
	}
	// The links come last: the answers to what was sold go by them.
	return errors.Join(err, ds.closeForwarding(ctx))
}
