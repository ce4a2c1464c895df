package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"flashsale/internal/backend"
	"flashsale/internal/httpapi"
	"flashsale/internal/order"
	"flashsale/internal/stock"
)

const (
	// watchEvery is how soon a replica notices that it may no longer write. What
	// it writes until then, the fence in MySQL refuses.
	watchEvery = time.Second
	// watchTimeout bounds each question, to MySQL and to the lock's server.
	watchTimeout = 2 * time.Second
	// presencePool is the one connection that shows MySQL that this replica runs.
	presencePool = 1
)

// watchman looks after what a replica was told at its start and what may cease to
// hold while it runs: that its lock's server goes on from the tokens that were
// admitted, and that the database is still guarded in its way.
type watchman struct {
	db       *stock.DB
	backend  *backend.Backend
	want     stock.Binding
	newest   uint64 // the largest token that is known to have been reached
	presence *stock.ReplicaLock
	logger   *slog.Logger

	why     atomic.Pointer[error] // what halts the replica; for good
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// guardedAs is how this replica guards the database.
func (r *replica) guardedAs() stock.Binding {
	return stock.Binding{Strategy: r.strategy.Name, Fence: r.fence, TokenSource: r.backend.Source}
}

// startWatchman takes the replica's place among those that may write, and watches
// until it is stopped.
func (r *replica) startWatchman(ctx context.Context, highest uint64) error {
	db, err := stock.Open(r.cmd.DSN, presencePool)
	if err != nil {
		return err
	}
	w := &watchman{db: db, backend: r.backend, want: r.guardedAs(), newest: max(highest, r.backend.Newest), logger: r.logger}
	if !r.strategy.Token {
		w.newest = 0
	}
	if w.presence, err = db.LockReplica(ctx, w.want); err != nil {
		return errors.Join(err, db.Close())
	}
	ctx, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	w.running.Go(func() { w.every(ctx, w.attend) })
	if r.strategy.Token {
		w.running.Go(func() { w.every(ctx, w.watchTokens) })
	}
	r.watchman = w
	return nil
}

// stop ends the watch. The replica must not write any more.
func (w *watchman) stop(context.Context) error {
	w.cancel()
	w.running.Wait()
	if w.presence != nil {
		w.presence.Release()
	}
	return w.db.Close()
}

// halted says why nothing may be written; nil as long as all is well.
func (w *watchman) halted() error {
	if why := w.why.Load(); why != nil {
		return *why
	}
	return nil
}

func (w *watchman) every(ctx context.Context, look func(context.Context)) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		attempt, cancel := context.WithTimeout(ctx, watchTimeout)
		look(attempt)
		cancel()
	}
}

// halt refuses orders, cancellations and changes of SKUs from now on. It does not
// end by itself: what this replica remembers of the lock's server is of another time.
func (w *watchman) halt(why error) {
	if w.why.CompareAndSwap(nil, &why) {
		w.logger.Error("this replica refuses orders, cancellations and changes of SKUs from now on", "error", why)
	}
}

// attend keeps the replica's place. One that was lost, as by a restart of MySQL,
// is taken again, unless the database was adopted meanwhile. It is also the look
// that finds out for all pools of this process when the server takes no more writes.
func (w *watchman) attend(ctx context.Context) {
	if w.presence != nil {
		// With time left to go to another server.
		checking, cancel := context.WithTimeout(ctx, watchTimeout/2)
		err := w.presence.Check(checking)
		cancel()
		if err == nil || errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		w.logger.Warn("lost the place among the replicas in MySQL", "error", err)
		w.presence.Release()
		w.presence = nil
	}
	presence, err := w.db.LockReplica(ctx, w.want)
	var other *stock.BindingError
	if errors.As(err, &other) {
		w.halt(fmt.Errorf("%w: %w", order.ErrAdopted, err))
	}
	w.presence = presence
}

// watchTokens finds a lock server whose data were put back: from one question to
// the next, its word never falls otherwise.
func (w *watchman) watchTokens(ctx context.Context) {
	reached, err := w.backend.Reached(ctx)
	if err != nil || reached == 0 {
		return // readiness says so, and orders wait for it; or it does not tell
	}
	if reached < w.newest {
		w.halt(fmt.Errorf("%w: the server is at token %d, and was at %d: it was restored or emptied since "+
			"(to go on with it, stop all replicas and run `api fence adopt`)", order.ErrTokensBehind, reached, w.newest))
		return
	}
	w.newest = reached
}

// guardReason is what readiness shows of a halted replica.
func guardReason(err error) httpapi.Reason {
	if errors.Is(err, order.ErrTokensBehind) {
		return "the lock server was restored or emptied: stop all replicas and run `api fence adopt`"
	}
	return "the database was given to another guard: start this replica again"
}
