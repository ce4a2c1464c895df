package order

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/stock/etcdstock"
	"flashsale/internal/strategy"
)

// etcdCAS is the seller of strategy etcd-cas, and its unitStore. The stock in etcd
// decides who gets units. MySQL holds the orders, and a copy of the stock for readers.
// No transaction spans both: a crash in between leaves units that were taken and not
// sold (see etcdstock).
type etcdCAS struct {
	cfg         *Config
	store       *etcdstock.Store
	direct      *direct
	returnSlots slots          // one per SKU: several would only compete with each other
	returning   sync.WaitGroup // the goroutines that give units back. They stop at the end of ctx.
	ctx         context.Context
	stop        context.CancelFunc
}

func newEtcdCAS(cfg *Config) *etcdCAS {
	e := &etcdCAS{cfg: cfg, store: cfg.Units, direct: newDirect(cfg), returnSlots: slots{perSKU: 1}}
	e.ctx, e.stop = context.WithCancel(context.Background())
	return e
}

const (
	// returnTimeout bounds each attempt to give units back, and all attempts from the
	// moment at which the replica begins to shut down.
	returnTimeout = 10 * time.Second
	returnPause   = 100 * time.Millisecond // after a failed attempt
)

func (e *etcdCAS) sell(ctx context.Context, r Request) (Placed, error) {
	return e.direct.retry(ctx, r, e.sellOnce)
}

// sellOnce takes the units in etcd and then writes the order to MySQL. It gives the
// units back if the order was certainly not written.
func (e *etcdCAS) sellOnce(ctx context.Context, r *Request) (Placed, error) {
	id := newID()
	// Check first what MySQL already knows: units taken in vain would meanwhile be
	// refused to other customers.
	_, err := e.direct.check(ctx, stock.Claim{SKU: r.SKU, Fence: strategy.FenceOff}, r)
	if err == nil {
		err = e.take(ctx, r, id)
	}
	if err != nil {
		return e.direct.outcome(ctx, r, sale{}, err)
	}
	placed, err := e.direct.unfenced(ctx, r, id, nil)
	if placed.Order.ID != id && !errors.Is(err, ErrUnknown) {
		e.startReturn(ctx, r.SKU, id, func() {})
	}
	return placed, err
}

// take takes an order's units. If etcd does not answer, they are given back in the
// background, because the caller's time is over.
func (e *etcdCAS) take(ctx context.Context, r *Request, id ID) error {
	sku, n := r.SKU, r.Quantity
	leave, err := e.direct.slots.enter(ctx, sku)
	if err != nil {
		return err
	}
	left, err := e.store.Take(ctx, sku, id.String(), int64(n), e.cfg.sawUnits(r))
	e.cfg.noteTake(r, id, left, err)
	switch {
	case errors.Is(err, stock.ErrShort):
		err = tooFew(left.Available)
	case err != nil && !errors.Is(err, stock.ErrContended): // the units may have been taken
		// It keeps its slot: while etcd is down, no further orders get this far.
		e.startReturn(ctx, sku, id, leave)
		return unavailable(err)
	case err != nil:
		err = unavailable(err)
	}
	leave()
	return err
}

// startReturn gives units back and then calls then. It waits at most until ctx's end.
func (e *etcdCAS) startReturn(ctx context.Context, sku string, id ID, then func()) {
	done := make(chan struct{})
	e.returning.Go(func() {
		defer close(done)
		defer then()
		e.returnUntilDone(ctx, sku, id)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// returnUntilDone retries, because nothing else returns the units of an unwritten order.
// If a replica gives up during shutdown, the audit finds the gap.
func (e *etcdCAS) returnUntilDone(request context.Context, sku string, id ID) {
	for {
		err := e.returnOnce(sku, id)
		if err == nil || errors.Is(err, etcdstock.ErrNotTaken) {
			return
		}
		if sleep.For(e.ctx, returnPause) != nil {
			e.cfg.Logger.WarnContext(request, "units were taken in etcd and not sold", "sku", sku, "order", id.String(), "error", err)
			return
		}
	}
}

func (e *etcdCAS) returnOnce(sku string, id ID) error {
	ctx, cancel := context.WithTimeout(e.ctx, returnTimeout)
	defer cancel()
	leave, err := e.returnSlots.enter(ctx, sku)
	if err != nil {
		return err
	}
	defer leave()
	_, err = e.store.GiveBack(ctx, sku, id.String())
	e.cfg.noteGiveBack(sku, id, err)
	return err
}

func (e *etcdCAS) alter(ctx context.Context, sku string, c change) error {
	return e.direct.alter(ctx, sku, c)
}

func (e *etcdCAS) close(ctx context.Context) error {
	time.AfterFunc(returnTimeout, e.stop)
	select {
	case <-ended(&e.returning): // after returnTimeout at the latest
		return nil
	case <-ctx.Done():
		return fmt.Errorf("give units back: %w", ctx.Err())
	}
}

// put creates a SKU's stock in etcd. The SKU is new, or its creator died before this step.
// put does so only while the SKU is unsold, so that sold units never return.
func (e *etcdCAS) put(ctx context.Context, s stock.Stock) error {
	if s.Available != s.Units {
		return nil
	}
	_, err := e.store.Create(ctx, s.SKU, s.Units)
	return unknown(err)
}

// restockable makes sure that etcd has the SKU's stock. Otherwise put would later count
// the restocked units among the initial ones.
func (e *etcdCAS) restockable(ctx context.Context, sku string) error {
	_, err := e.store.Read(ctx, sku)
	if errors.Is(err, stock.ErrUnknownSKU) {
		return fmt.Errorf("%w: etcd has no stock of %s; PUT the SKU again", ErrUnavailable, sku)
	}
	return domainError(err)
}

func (e *etcdCAS) restock(ctx context.Context, r *Restock) error {
	_, err := e.store.Restock(ctx, r.SKU, r.ID.String(), int64(r.Units))
	return unknown(err)
}

func (e *etcdCAS) giveBack(ctx context.Context, sku string, ids []ID) error {
	ended, err := findEnded(ctx, e.cfg.DB, ids)
	for _, id := range ended {
		if _, err := e.store.GiveBack(ctx, sku, id.String()); err != nil && !errors.Is(err, etcdstock.ErrNotTaken) {
			return unknown(err)
		}
	}
	return unknown(err)
}

// repair finds the units of replicas that died between the two stores.
func (e *etcdCAS) repair(ctx context.Context) error {
	all, err := e.store.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		_, taken, err := e.store.Taken(ctx, s.SKU)
		if err != nil {
			return err
		}
		var ids []ID
		for name := range taken {
			if id, err := uuid.Parse(name); err == nil { // otherwise it is not ours
				ids = append(ids, id)
			}
		}
		for some := range slices.Chunk(ids, expiryBatch) {
			if err := e.giveBack(ctx, s.SKU, some); err != nil {
				return err
			}
		}
	}
	return nil
}
