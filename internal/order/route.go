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

// This file is how an order comes to the replica that sells its SKU:
//
//	         nobody sells, or this replica does
//	buyer -------------------------------------> desk ---> answer
//	  ^  |                                         | its tenure ended
//	  |  |   another replica sells                 v
//	  |  +-----> link ---> its desk ---> answer   moved
//	  |            | the link ended, or "moved"    |
//	  +------------+-------------------------------+
//	            look again who sells
//
// The goroutine of the request goes round. It names the tenure that it sends the order
// to, and never an older one than the last time: see docs/decisions/0003.

// Forwarding says how orders go to the replicas that sell them, and how this
// replica takes those that it sells.
type Forwarding struct {
	// Config needs Process and TLS; the rest of it is filled in.
	forward.Config
	// Listener takes the links of other replicas. The Service closes it.
	Listener net.Listener
}

// errMoved: nothing was applied, and the tenure that the order was sent to has ended.
// errBroken: the order may have been applied.
var (
	errMoved  = errors.New("the SKU has another seller")
	errBroken = errors.New("the link to the seller ended")
)

// lateMargin is how long before its buyer gives up the seller must have an order in a
// batch. If it has not, its answer still reaches the buyer in time.
const lateMargin = 150 * time.Millisecond

// movePause is the first pause after an order was sent to a tenure that had ended,
// because this replica's view was behind. It doubles up to moveMaxPause.
const (
	movePause    = 2 * time.Millisecond
	moveMaxPause = 50 * time.Millisecond
)

// sell takes an order to the replica that sells its SKU, and waits for the answer.
func (ds *desks) sell(ctx context.Context, r Request) (Placed, error) {
	r.id = newID()
	over := ds.deadlines.next()
	deadline := time.Now().Add(ds.cfg.RequestTimeout)
	var least lock.Token // the newest tenure that it was sent to
	unsure := false      // it may have been sold by one
	for pause := movePause; ; pause = min(2*pause, moveMaxPause) {
		holder, away := ds.sellerOf(r.SKU)
		var placed Placed
		var err error
		t := newTicket(ctx, r)
		t.least = least
		if away && holder.Token >= least {
			least = holder.Token
			placed, err = ds.toSeller(ctx, over, t, holder, time.Until(deadline))
		} else {
			placed, err = ds.atDesk(ctx, over, t)
		}
		switch {
		case errors.Is(err, errBroken):
			unsure = true
		case errors.Is(err, errMoved):
		case unsure && saysNotApplied(err):
			return placed, fmt.Errorf("%w: %w", ErrUnknown, err)
		default:
			return placed, err
		}
		ds.cfg.Metrics.Moved.Inc()
		if !ds.awaitMove(ctx, over, holder, pause) {
			if unsure {
				return Placed{}, fmt.Errorf("%w: %w", ErrUnknown, err)
			}
			return Placed{}, errLate
		}
	}
}

// saysNotApplied reports whether err says that nothing was applied: after a link broke
// with the order on it, that is true of the last copy alone.
func saysNotApplied(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBusy) || errors.Is(err, ErrTokensBehind) || errors.Is(err, ErrAdopted)
}

// sellerOf finds who sells a SKU: away where it is another replica, that takes
// orders. In all other cases the desk here sees to it.
func (ds *desks) sellerOf(sku string) (holder lock.Holder, away bool) {
	if ds.viewer == nil {
		return holder, false
	}
	holder, known := ds.viewer.Holder(sku)
	if !known || holder.Mine {
		return holder, false
	}
	ds.mu.Lock()
	d := ds.open[sku]
	ds.mu.Unlock()
	if d != nil && (d.token.Load() != 0 || d.contends.now()) {
		return holder, false
	}
	if ds.links == nil || holder.Addr == "" || holder.Process == ds.cfg.Forwarding.Process {
		ds.contend(sku, time.Time{})
		return holder, false
	}
	return holder, true
}

// toSeller sends an order to the replica that holds the lock, and waits for the
// answer.
func (ds *desks) toSeller(ctx context.Context, over <-chan struct{}, t *ticket, holder lock.Holder, left time.Duration) (Placed, error) {
	ctx, end := ds.cfg.step(ctx, "forward", ofSKU(t.req.SKU))
	o := orderToWire(ctx, &t.req, holder.Token, left-min(lateMargin, left/4))
	err := ds.links.Send(forward.Peer{Addr: holder.Addr, Process: holder.Process}, o, func(a *forward.Answer, err error) {
		switch {
		case errors.Is(err, forward.ErrNoLink): // nothing was sent
			t.answer(Placed{}, errMoved)
			return
		case err != nil:
			t.answer(Placed{}, errBroken)
			return
		}
		t.answer(fromWire(a, &t.req))
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
		ds.contend(t.req.SKU, time.Time{})
		return ds.atDesk(ctx, over, t)
	}
	var a answer
	select {
	case a = <-t.answered:
	case <-ctx.Done():
		a.err = errNoAnswer
	case <-over:
		a.err = errNoAnswer
	}
	if a.err != nil {
		select {
		case a = <-t.answered: // it came at the last moment
		default:
		}
	}
	end(a.err)
	return a.placed, a.err
}

var errNoAnswer = fmt.Errorf("%w: the replica that sells has not answered", ErrUnknown)

// awaitMove waits until it is worth looking again who sells. It returns false at
// the end of the order's time.
func (ds *desks) awaitMove(ctx context.Context, over <-chan struct{}, holder lock.Holder, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-over:
		return false
	case <-holder.Gone: // nil, and never, where nobody held it
	case <-timer.C:
	}
	return true
}

// Receive takes orders that other replicas forward. Each names the tenure that it
// was sent to, and is told to move where that has ended, or is not known here.
func (ds *desks) Receive(from *forward.Source, orders []*forward.Order) {
	now := time.Now()
	var halted error
	if ds.cfg.Halted() != nil {
		halted = errMoved // replicas that are not halted sell; this one gives its locks back
	}
	for _, o := range orders {
		t := ds.ticketOf(from, o, now)
		t.waitsFrom(ds.cfg.Tracer)
		err := halted
		if err == nil {
			err = ds.receive(t)
		}
		if err != nil {
			t.waited(err)
			t.answer(Placed{}, err)
		}
	}
}

func (ds *desks) receive(t *ticket) error {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d := ds.open[t.req.SKU]
	if ds.closed || d == nil || t.least == 0 || d.token.Load() != uint64(t.least) {
		return errMoved
	}
	return ds.put(d, t)
}

// sweepEvery is how often the desks are looked through for forwarded orders whose
// time is over: a part of lateMargin.
const sweepEvery = lateMargin / 3

// openForwarding opens the links, if the replica has any.
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
			ds.cfg.Logger.Error("the listener for other replicas failed: they cannot forward orders here", "error", err)
		}
	})
	ds.forwarding.Go(ds.sweep)
}

// sweep answers forwarded orders whose time is over while their desk waits for a
// lock or a commit. Orders of this replica's own buyers leave by themselves.
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

// Forwarded are the orders that this replica has sent to others, and that are not
// answered yet, by the address of the replica that sells them.
func (s *Service) Forwarded() map[string]int {
	ds, ok := s.seller.(*desks)
	if !ok || ds.links == nil {
		return nil
	}
	underWay := map[string]int{}
	for _, link := range ds.links.List() {
		underWay[link.Peer.Addr] += link.UnderWay
	}
	return underWay
}

// closeForwarding ends the links once all desks are closed.
func (ds *desks) closeForwarding(ctx context.Context) error {
	if ds.links == nil {
		return nil
	}
	err := errors.Join(ds.links.Close(ctx), ds.server.Close(ctx))
	ds.stop()
	ds.forwarding.Wait()
	return err
}
