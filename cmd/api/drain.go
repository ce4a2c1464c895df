package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// closeConnections makes clients reconnect for their next request while the replica
// drains: a proxy then uses another replica. Requests are still served.
func (r *replica) closeConnections(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if r.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, request)
	})
}

// drain stops the server without losing a request. Readiness fails from now on, but
// requests are served until --drain-delay has passed, so that load balancers notice.
// Then no new requests are accepted, and those in progress are finished. A second
// signal ends the process at once: see main.
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

// The rounds in which a replica closes, in order. Orders close before locks, so that
// the locks are held while the last batches commit.
const (
	expiryRound = iota
	ordersRound
	locksRound
	serversRound
	closeRounds
)

// closeTimeout bounds each round. docs/operations.md promises a total of 15 s.
const closeTimeout = 3 * time.Second

// atClose adds a step to a round. The steps of a round run at the same time, so that
// several servers that hang cost one timeout.
func (r *replica) atClose(round int, name string, step func(context.Context) error) {
	r.closing[round] = append(r.closing[round], func(ctx context.Context) error {
		if err := step(ctx); err != nil {
			return fmt.Errorf("close %s: %w", name, err)
		}
		return nil
	})
}

// close runs all rounds, each within closeTimeout.
func (r *replica) close() error {
	var all []error
	for _, steps := range r.closing {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		errs := make([]error, len(steps))
		var running sync.WaitGroup
		for i, step := range steps {
			running.Go(func() { errs[i] = step(ctx) })
		}
		running.Wait()
		cancel()
		all = append(all, errs...)
	}
	return errors.Join(all...)
}

// ignoringContext adapts a function that returns at once.
func ignoringContext(f func() error) func(context.Context) error {
	return func(context.Context) error { return f() }
}

// background runs f until stop is called, which waits for its end. It detaches f from
// the end of ctx: f must go on while the replica drains.
func background(ctx context.Context, f func(context.Context) error) (stop func(context.Context) error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- f(running) }()
	return func(ctx context.Context) error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
