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

// desks are the open desks of a replica: one goroutine per SKU in use. Their orders
// come from this replica's buyers, and from replicas that forward them.
type desks struct {
	cfg       *Config
	ctx       context.Context // of all desks; ends when close runs out of time
	stop      context.CancelFunc
	selling   context.Context // ends when close begins: sell what waits, then stop
	endSale   context.CancelFunc
	running   sync.WaitGroup
	committer *committer
	checks    *lanes[*check]
	memory    *memory
	deadlines deadlines
	quantum   atomic.Int64 // DeskConfig.Quantum, which SetQuantum can change

	viewer     lock.Viewer    // knows who sells each SKU; nil if the lock does not tell
	links      *forward.Links // to the other sellers; nil if orders are not forwarded
	server     *forward.Server
	forwarding sync.WaitGroup // serves links and take-overs
	takeOvers  takeOvers

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
		memory: &memory{orders: map[uint64]remembered{}}, deadlines: deadlines{after: cfg.RequestTimeout},
	}
	ds.viewer, _ = cfg.Locker.(lock.Viewer)
	ds.quantum.Store(int64(cfg.Desk.Quantum))
	// A desk waits for its lane's answer, so no lane starts after the last desk has ended.
	ds.committer, ds.checks = newCommitter(cfg, ds.running.Go), newChecks(cfg, ds.running.Go)
	ds.openForwarding()
	return ds
}

// alter hands the change to the SKU's desk, which applies waiting changes together.
func (ds *desks) alter(ctx context.Context, sku string, c change) error {
	over := ds.deadlines.next()
	for {
		ds.cfg.yield(ctx, sku)
		_, err := ds.atDesk(ctx, over, &ticket{sku: sku, change: &c, request: ctx, answered: make(chan answer, 1)})
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// atDesk hands a ticket to its SKU's desk on this replica, and waits for the answer.
func (ds *desks) atDesk(ctx context.Context, over <-chan struct{}, t *ticket) (Placed, error) {
	t.beginWait(ds.cfg.Tracer)
	if err := ds.enqueue(t); err != nil {
		t.endWait(err)
		return Placed{}, err
	}
	if a, ok := t.await(ctx, over); ok {
		return a.placed, a.err
	}
	if t.leave() {
		t.endWait(ErrUnavailable)
		return Placed{}, t.errLate()
	}
	select {
	case a := <-t.answered: // at the last moment
		return a.placed, a.err
	default:
		return Placed{}, fmt.Errorf("%w: its batch has not been answered yet", ErrUnknown)
	}
}

// enqueue never blocks. The mutex keeps tickets away from a desk that is closing.
func (ds *desks) enqueue(t *ticket) error {
	if err := ds.cfg.Halted(); err != nil {
		return err
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return errClosing
	}
	return ds.put(ds.deskOf(t.sku), t)
}

var errClosing = fmt.Errorf("%w: this replica is shutting down", ErrUnavailable)

// deskOf returns the SKU's desk, and opens it if needed. The caller holds mu.
func (ds *desks) deskOf(sku string) *desk {
	d, ok := ds.open[sku]
	if !ok {
		d = &desk{cfg: ds.cfg, desks: ds, sku: sku, queue: newQueue()}
		ds.open[sku] = d
		ds.cfg.Metrics.Desks.Inc()
		ds.running.Go(d.run)
	}
	return d
}

// put queues a ticket at an open desk. The caller holds mu.
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
	all := ended(&ds.running)
	var err error
	select {
	case <-all:
	case <-ctx.Done():
		ds.stop() // every wait of a desk ends with this context
		<-all
		err = fmt.Errorf("desks were closed with orders waiting: %w", ctx.Err())
	}
	// The links close last, because they carry the answers to forwarded orders.
	return errors.Join(err, ds.closeForwarding(ctx))
}

// ended returns a channel that is closed when the goroutines of a group have ended.
func ended(group *sync.WaitGroup) <-chan struct{} {
	c := make(chan struct{})
	go func() { group.Wait(); close(c) }()
	return c
}

// deadlines signal orders that their time is over. Orders that arrive within
// deadlineStep share one channel and one timer: a context.WithTimeout for each would
// cost more than the rest of the desk's work on an order.
type deadlines struct {
	after time.Duration

	mu      sync.Mutex
	current chan struct{}
	until   time.Time // when current is no longer handed out
}

// deadlineStep is how much earlier than the request timeout an order may expire.
const deadlineStep = 10 * time.Millisecond

// next returns a channel that closes at the request timeout, or slightly earlier.
func (d *deadlines) next() <-chan struct{} {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil || now.After(d.until) {
		c := make(chan struct{})
		time.AfterFunc(d.after, func() { close(c) }) // never stopped: it holds only its channel
		d.current, d.until = c, now.Add(deadlineStep)
	}
	return d.current
}
