package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// internalConnections bounds the connections to --internal-addr: a few probes and
	// scrapes at a time.
	internalConnections = 64
	// internalTimeout bounds a request, its answer, and the wait for the next request.
	// It is longer than an interval of most probes, which then keep their connection.
	internalTimeout = 30 * time.Second
)

// listenInternal binds --internal-addr, with limits of its own. It returns nil if the flag
// is not set.
func (c *serveCmd) listenInternal(limits connectionLimits) (net.Listener, error) {
	if c.InternalAddr == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", c.InternalAddr)
	if err != nil {
		return nil, fmt.Errorf("--internal-addr: %w", err)
	}
	limits.total, limits.address = internalConnections, 0
	return limitConnections(listener, limits), nil
}

// newInternalServer returns the server of --internal-addr. It serves the paths of
// operators, also while the callers of --addr use all its connections.
func newInternalServer(api http.Handler, logger *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		mux.Handle(path, api)
	}
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       internalTimeout,
		WriteTimeout:      internalTimeout,
		IdleTimeout:       internalTimeout,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// stopServer finishes the requests in progress, within closeTimeout.
func stopServer(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}
