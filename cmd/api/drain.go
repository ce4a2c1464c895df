package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
