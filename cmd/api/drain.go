package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// parting asks callers whose connection is kept to open another one for their
// next request while the replica drains: a proxy sends that one elsewhere. What
// comes is still served.
func (r *replica) parting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if r.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, request)
	})
}

// drain ends the server so that no request is lost. Readiness says no from here
// on, and everything is served as before until --drain-delay is over: whoever
// spreads the load has to see it first. Then nothing new is let in, and what is in
// hand is answered. A second signal ends the process at once: see main.
func (r *replica) drain(ctx context.Context, server *http.Server) error {
	r.draining.Store(true)
	r.logger.Info("draining", "delay", r.cmd.DrainDelay.String(), "timeout", r.cmd.DrainTimeout.String())
	time.Sleep(r.cmd.DrainDelay)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cmd.DrainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("drain within --drain-timeout %s: %w", r.cmd.DrainTimeout, err), server.Close())
	}
	return nil
}

// closeTimeout bounds each round of giving back what a replica holds. There are
// four: docs/operations.md promises 15 s to whoever ends one.
const closeTimeout = 3 * time.Second

// close gives everything back, from the top down: orders first, so that the lock
// is held while the last of them commit; then the lock, whose lease is revoked.
// Things that need not wait for each other share a round, so that servers that
// hang do not add their timeouts up.
func (r *replica) close() error {
	if r.stopSettings != nil {
		r.stopSettings()
	}
	var expirer, orders, held, open round
	if r.stopExpirer != nil {
		expirer.add("expirer", r.stopExpirer)
	}
	if r.orders != nil {
		orders.add("orders", r.orders.Close)
	}
	if r.backend != nil && r.backend.Locker != nil {
		held.add("lock", r.backend.Locker.Close)
	}
	if r.stopMirror != nil {
		held.add("mirror", r.stopMirror)
	}
	if r.watchman != nil {
		held.add("the presence", r.watchman.stop)
	}
	if r.backend != nil {
		open.add("the lock's server", func(context.Context) error { return r.backend.Close() })
	}
	if r.mirrorDB != nil {
		open.add("MySQL", func(context.Context) error { return r.mirrorDB.Close() })
	}
	if r.db != nil {
		open.add("MySQL", func(context.Context) error { return r.db.Close() })
	}
	// In the last round, with the spans of what was done at the end. A collector
	// that does not answer is no failure of this replica's.
	open.add("tracing", func(ctx context.Context) error {
		if err := r.tracing.Close(ctx); err != nil {
			r.logger.Warn("the last spans were not sent", "error", err)
		}
		return nil
	})
	return errors.Join(expirer.giveBack(), orders.giveBack(), held.giveBack(), open.giveBack())
}

// round is what is given back side by side.
type round []func(context.Context) error

// add says how one thing is given back. What takes no context must ask no server.
func (o *round) add(name string, f func(context.Context) error) {
	*o = append(*o, func(ctx context.Context) error {
		if err := f(ctx); err != nil {
			return fmt.Errorf("close %s: %w", name, err)
		}
		return nil
	})
}

// giveBack gives all of them back within closeTimeout.
func (o round) giveBack() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	errs := make([]error, len(o))
	var all sync.WaitGroup
	for i, f := range o {
		all.Go(func() { errs[i] = f(ctx) })
	}
	all.Wait()
	return errors.Join(errs...)
}
