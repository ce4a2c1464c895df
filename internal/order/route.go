package order

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"flashsale/internal/forward"
	"flashsale/internal/lock"
)

// This file is how an order reaches the replica that sells its SKU:
//
//	         nobody sells, or this replica does
//	buyer -------------------------------------> desk ---> answer
//	  ^  |                                         | its tenure ended
//	  |  |   another replica sells                 v
//	  |  +-----> link ---> its desk ---> answer   moved
//	  |            | the link ended, or "moved"    |
//	  +------------+-------------------------------+
//	            look up the seller again
//
// The goroutine of the request runs the loop. Each time it names the tenure that it sends
// the order to, and never an older one than before: see docs/decisions/0003.

// Forwarding configures how orders are sent to other replicas and received from them.
type Forwarding struct {
	// Config needs Process and TLS only; the Service sets the rest.
	forward.Config
	Listener net.Listener // accepts the links of other replicas. The Service closes it.
}

var (
	// errMoved: nothing was applied, and the tenure that the order was sent to has ended.
	errMoved    = errors.New("the SKU has another seller")
	errBroken   = errors.New("the link to the seller ended") // the order may have been applied
	errNoAnswer = fmt.Errorf("%w: the seller has not answered", ErrUnknown)
)

const (
	// lateMargin is how long before its buyer's deadline a forwarded order must be in a
	// batch. Otherwise the seller refuses it, while that answer can still reach the buyer.
	lateMargin = 150 * time.Millisecond
	sweepEvery = lateMargin / 3 // how often the desks are searched for forwarded orders past that time
	// movePause is the first pause before the seller is looked up again, because this
	// replica's view may be behind. It doubles up to moveMaxPause.
	movePause    = 2 * time.Millisecond
	moveMaxPause = 50 * time.Millisecond
)

func (ds *desks) sell(ctx context.Context, r Request) (Placed, error) {
	if r.id == (ID{}) {
		r.id = newID()
	}
	over := ds.deadlines.next()
	deadline := time.Now().Add(ds.cfg.RequestTimeout)
	var least lock.Token // the newest tenure that it was sent to
	unsure := false      // whether an earlier copy may have been sold
	for pause := movePause; ; pause = min(2*pause, moveMaxPause) {
		ds.cfg.yield(ctx, r.SKU)
		holder, remote := ds.sellerOf(r.SKU)
		t := newOrderTicket(ctx, &r, least)
		var placed Placed
		var err error
		if remote && holder.Token >= least {
			least = holder.Token
			placed, err = ds.toSeller(ctx, over, t, holder, time.Until(deadline))
		} else {
			placed, err = ds.atDesk(ctx, over, t)
		}
		switch {
		case errors.Is(err, errBroken):
			unsure = true
		case errors.Is(err, errMoved):
		case unsure && isAny(err, notApplied): // "not applied" is true of the last copy only
			return placed, unknown(err)
		default:
			return placed, err
		}
		ds.cfg.Metrics.Moved.Inc()
		select {
		case <-holder.Gone: // nil if nobody held the lock
			continue
		case <-time.After(pause):
			continue
		case <-ctx.Done():
		case <-over:
		}
		if unsure {
			return Placed{}, unknown(err)
		}
		return Placed{}, errLate
	}
}

// sellerOf finds the seller of a SKU. remote is set if it is another replica that takes
// orders; otherwise the desk here handles the order.
func (ds *desks) sellerOf(sku string) (holder lock.Holder, remote bool) {
	if ds.viewer == nil {
		return holder, false
	}
	holder, found := ds.viewer.Holder(sku)
	if !found || holder.Mine {
		return holder, false
	}
	ds.mu.Lock()
	d := ds.open[sku]
	ds.mu.Unlock()
	if d != nil && (d.token.Load() != 0 || d.contention.active()) {
		return holder, false
	}
	if ds.links == nil || holder.Addr == "" || holder.Process == ds.cfg.Forwarding.Process {
		ds.contend(sku, time.Time{})
		return holder, false
	}
	return holder, true
}

func (ds *desks) toSeller(ctx context.Context, over <-chan struct{}, t *ticket, holder lock.Holder, left time.Duration) (Placed, error) {
	ctx, end := ds.cfg.step(ctx, "forward", ofSKU(t.sku))
	r := t.order.Request
	ds.cfg.noteForward(r, &holder)
	o := orderToWire(ctx, r, holder.Token, left-min(lateMargin, left/4))
	err := ds.links.Send(forward.Peer{Addr: holder.Addr, Process: holder.Process}, o, func(a *forward.Answer, err error) {
		switch {
		case errors.Is(err, forward.ErrNoLink): // nothing was sent
			t.answer(Placed{}, errMoved)
		case err != nil:
			t.answer(Placed{}, errBroken)
		default:
			t.answer(fromWire(a, r))
		}
	})
	switch {
	case errors.Is(err, forward.ErrFull):
		ds.cfg.Metrics.Full.Inc()
		err = fmt.Errorf("%w: %w", ErrBusy, err)
		end(err)
		return Placed{}, err
	case err != nil:
		end(err)
		// The replicas cannot reach each other: this one takes turns at the lock.
		ds.contend(t.sku, time.Time{})
		return ds.atDesk(ctx, over, t)
	}
	a, ok := t.await(ctx, over)
	if !ok {
		select {
		case a = <-t.answered: // at the last moment
		default:
			a.err = errNoAnswer
		}
	}
	end(a.err)
	return a.placed, a.err
}

// Receive takes orders that other replicas forward. Each names the tenure that it was
// sent to. If that tenure has ended, or is unknown here, the answer is "moved".
func (ds *desks) Receive(from *forward.Source, orders []*forward.Order) {
	now := time.Now()
	halted := ds.cfg.Halted() != nil // other replicas may sell; this one releases its locks
	for _, o := range orders {
		t := ds.ticketOf(from, o, now)
		t.beginWait(ds.cfg.Tracer)
		err := errMoved
		ds.mu.Lock()
		if d := ds.open[t.sku]; !halted && !ds.closed && d != nil && t.order.least != 0 && d.token.Load() == uint64(t.order.least) {
			err = ds.put(d, t)
		}
		ds.mu.Unlock()
		if err != nil {
			t.endWait(err)
			t.answer(Placed{}, err)
		}
	}
}

func (ds *desks) openForwarding() {
	f := ds.cfg.Forwarding
	if f == nil || ds.viewer == nil {
		return
	}
	cfg := f.Config
	cfg.Observer, cfg.Logger, cfg.Tick = ds, ds.cfg.Logger, linkTick
	ds.links = forward.NewLinks(cfg)
	ds.server = forward.NewServer(cfg, ds)
	ds.forwarding.Go(func() {
		if err := ds.server.Serve(f.Listener); err != nil && ds.ctx.Err() == nil {
			ds.cfg.Logger.Error("listener for other replicas failed; they cannot forward orders to this replica", "error", err)
		}
	})
	ds.forwarding.Go(ds.sweep)
}

// sweep answers forwarded orders whose time is over while their desk waits for a lock
// or a commit. The callers on this replica leave the queue by themselves.
func (ds *desks) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ds.ctx.Done():
			return
		case now := <-ticker.C:
			ds.mu.Lock()
			for _, d := range ds.open {
				ds.cfg.Metrics.Waiting.Sub(float64(d.queue.drop(now)))
			}
			ds.mu.Unlock()
		}
	}
}

func (ds *desks) closeForwarding(ctx context.Context) error {
	if ds.links == nil {
		return nil
	}
	err := errors.Join(ds.links.Close(ctx), ds.server.Close(ctx))
	ds.stop()
	ds.forwarding.Wait()
	return err
}
