package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"flashsale/internal/backend"
	"flashsale/internal/httpapi"
	"flashsale/internal/limit"
	"flashsale/internal/mirror"
	"flashsale/internal/order"
	"flashsale/internal/record"
	"flashsale/internal/settings"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
	"flashsale/internal/version"
)

type serveCmd struct {
	Addr         string `default:"${addr}" help:"Address to listen on."`
	InternalAddr string `placeholder:"HOST:PORT" help:"Address that also serves /healthz, /readyz and /metrics, for probes and scrapes: by plain HTTP, also when callers use all connections of --addr, and until the end of a drain. Keep it private. Off by default."`
	Replica      string `exact:"" placeholder:"NAME" help:"Name of this replica (default: host name and process id)."`
	capacityFlags
	backendFlags
	strategyFlags
	Level slog.Level `name:"log-level" default:"info" help:"Lowest level that is logged: debug, info, warn or error. api config can change it at run time."`

	LockTTL time.Duration `name:"lock-ttl" default:"5s" help:"How long a lock lasts after its replica has died. etcd raises it to at least 2s."`

	accessFlags
	forwardFlags
	limitFlags

	Quantum time.Duration `default:"${quantum}" help:"How long a replica keeps a SKU's lock while a replica that cannot forward orders to it is waiting. api config can change it at run time."`

	PaymentWindow  time.Duration `default:"15m" help:"How long an order stays reserved without payment."`
	MaxUnpaid      int           `default:"0" placeholder:"N" help:"Maximum number of unpaid orders that a customer may have, over all SKUs. Orders beyond it get 409 too-many-unpaid. Set it on all replicas. 0, the default, is no limit."`
	RequestTimeout time.Duration `default:"5s" help:"Maximum time from the arrival of an order to its answer."`
	StartTimeout   time.Duration `default:"60s" help:"At start: maximum wait for MySQL, and then for the lock server."`
	DrainDelay     time.Duration `default:"0s" help:"At stop: how long to keep serving after /readyz starts to fail. Must be longer than the load balancer takes to notice, for example 5s."`
	DrainTimeout   time.Duration `default:"10s" help:"At stop: maximum wait for requests in progress."`
	ThinkTime      time.Duration `default:"0s" help:"For experiments: a pause between reading and writing stock."`

	telemetryFlags
	MaxStreams        int `default:"5000" placeholder:"N" help:"Maximum number of open event streams (${default})."`
	MaxStreamsAddress int `default:"0" placeholder:"N" help:"Maximum number of open event streams from an IPv4 address or an IPv6 network of --ipv6-prefix; 0 is a tenth of --max-streams, and at least 10. Further ones get 429 with Retry-After. Behind a proxy, set --trusted-proxies, too."`

	serverTLSFlags
}

func (c *serveCmd) check() error {
	for _, d := range []struct {
		name         string
		value, least time.Duration
	}{
		{"--lock-ttl", c.LockTTL, time.Second}, {"--payment-window", c.PaymentWindow, time.Second},
		{"--request-timeout", c.RequestTimeout, 100 * time.Millisecond}, {"--start-timeout", c.StartTimeout, time.Second},
		{"--drain-delay", c.DrainDelay, 0}, {"--drain-timeout", c.DrainTimeout, 0}, {"--think-time", c.ThinkTime, 0},
	} {
		if d.value < d.least {
			return fmt.Errorf("%s is %s, must be at least %s", d.name, d.value, d.least)
		}
	}
	switch {
	case c.MaxUnpaid < 0:
		return fmt.Errorf("--max-unpaid is %d, must be at least 1, or 0 for no limit", c.MaxUnpaid)
	case c.MaxStreams < 1:
		return fmt.Errorf("--max-streams is %d, must be at least 1", c.MaxStreams)
	case c.MaxStreamsAddress < 0:
		return fmt.Errorf("--max-streams-address is %d, must be at least 1, or 0 for a tenth of --max-streams", c.MaxStreamsAddress)
	}
	for _, check := range []func() error{
		c.telemetryFlags.check, c.capacityFlags.check, c.flagValues().Check, c.accessFlags.check, c.limitFlags.check,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// gcPercent saves a tenth of the CPU for about 15 MiB: nearly everything that an order
// allocates is garbage once it is answered, and each collection scans the stacks of
// hundreds of waiting requests. GOGC in the environment takes precedence.
const gcPercent = 150

// Run serves until ctx ends, then drains.
func (c *serveCmd) Run(ctx context.Context, s streams) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	row, fence, err := c.parse()
	if err != nil {
		return err
	}
	if err := backend.Check(row, &c.Servers); err != nil {
		return err
	}
	if c.Replica == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Replica = fmt.Sprintf("%s-%d", host, os.Getpid())
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	level := new(slog.LevelVar)
	level.Set(c.Level)
	logger := slog.New(telemetry.Logged(slog.NewJSONHandler(s.err, &slog.HandlerOptions{Level: level}))).With("replica", c.Replica)
	keys, err := c.keys(logger)
	if err != nil {
		return err
	}
	secure, err := c.serverTLS(logger)
	if err != nil {
		return err
	}
	// First, since a port in use is the most common mistake.
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	defer func() { _ = listener.Close() }() // usually closed by the server
	limits, err := c.connectionLimits(logger)
	if err != nil {
		return err
	}
	listener = limitConnections(listener, limits)
	internal, err := c.listenInternal(limits)
	if err != nil {
		return err
	}
	if internal != nil {
		defer func() { _ = internal.Close() }() // usually closed by its server
	}
	var forwarding *order.Forwarding
	if row.Write == strategy.Batch {
		if forwarding, err = c.forwarding(c.Addr, c.Replica, &c.accessFlags, logger); err != nil {
			return err
		}
		defer func() { _ = forwarding.Listener.Close() }() // usually closed by the order service
	}

	r := &replica{cmd: c, strategy: row, fence: fence, logger: logger, level: level, keys: keys, tls: secure, forwarding: forwarding, limits: c.limits(), registry: prometheus.NewRegistry()}
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), limits.refused)
	defer func() { err = errors.Join(err, r.close()) }()
	r.tracing, err = telemetry.OpenTracing(ctx, telemetry.TracingConfig{
		Endpoint: c.OTLPEndpoint, Ratio: c.TraceRatio, Replica: c.Replica, Version: version.Release(), Logger: logger,
	})
	if err != nil {
		return err
	}
	r.atClose(serversRound, "tracing", r.closeTracing)
	if err := r.openSteps(); err != nil {
		return err
	}
	if err := r.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while waiting for a server
		}
		return err
	}
	return r.serve(ctx, listener, internal)
}

// replica is a running `api serve`.
type replica struct {
	cmd        *serveCmd
	strategy   strategy.Strategy
	fence      strategy.Fence
	logger     *slog.Logger
	level      *slog.LevelVar
	keys       *httpapi.Keys     // nil if tokens are checked with a secret
	tls        *tls.Config       // nil for plain HTTP
	forwarding *order.Forwarding // nil if the strategy does not forward orders
	limits     *limit.Limits
	registry   *prometheus.Registry
	tracing    telemetry.Tracing
	steps      *record.Recorder // nil without --trace-steps

	db          *stock.DB
	backend     *backend.Backend
	mirrorDB    *stock.DB      // the mirror's pool; nil without a mirror
	mirror      *mirror.Mirror // nil if the strategy has no mirror
	replicaLock *replicaLock
	orders      *order.Service
	settings    *settings.Watch // nil if the strategy does not use etcd
	// audit and levels read stock in etcd; nil if MySQL has it.
	audit  func(context.Context) (stock.Report, error)
	levels func(context.Context) ([]stock.Level, error)

	selling, reading sharedCheck // of the servers, for each kind of readiness

	draining atomic.Bool
	closing  [closeRounds][]func(context.Context) error // the steps of each round
}

// shareChecks sets up the checks of ready and readyToRead.
func (r *replica) shareChecks() {
	r.selling.check = func(ctx context.Context) map[string]error {
		// In parallel, so that a server that hangs does not delay the other check.
		var inMySQL, inServer error
		var both sync.WaitGroup
		both.Go(func() { inMySQL = at(r.cmd.address(), r.db.TryWrite(ctx)) })
		both.Go(func() { inServer = at(backend.Address(r.strategy, &r.cmd.Servers), r.backend.Ping(ctx)) })
		both.Wait()
		checks := map[string]error{"mysql": inMySQL}
		if name := string(r.strategy.Server); name != "" {
			checks[name] = inServer
		}
		return checks
	}
	r.reading.check = func(ctx context.Context) map[string]error {
		_, err := r.db.Now(ctx)
		return map[string]error{"mysql": at(r.cmd.address(), err)}
	}
}

// ready checks whether every server that an order needs accepts writes.
func (r *replica) ready(ctx context.Context) map[string]error {
	checks := r.serving(r.selling.get(ctx))
	if err := r.replicaLock.halted(); err != nil {
		checks["guard"] = haltReason(err)
	}
	return checks
}

// readyToRead checks whether MySQL answers. It may still be read-only; payments then get
// 503.
func (r *replica) readyToRead(ctx context.Context) map[string]error {
	return r.serving(r.reading.get(ctx))
}

// serving adds to the servers' checks what applies to reads and writes. It returns a new
// map: that of the servers is shared with other calls.
func (r *replica) serving(servers map[string]error) map[string]error {
	checks := maps.Clone(servers)
	if r.draining.Load() {
		checks["replica"] = httpapi.Reason("draining")
	}
	return checks
}

// at adds the server to an error, for the log, and the public reason if the server
// answers but rejects writes.
func at(address string, err error) error {
	switch {
	case err == nil:
		return nil
	case stock.IsReadOnly(err), stock.IsDenied(err), errors.Is(err, backend.ErrNoWrites):
		return fmt.Errorf("%s: %w (%w)", address, httpapi.Reason("does not accept writes"), err)
	}
	return fmt.Errorf("%s: %w", address, err)
}

// serve serves requests until ctx ends, then drains. internal may be nil.
func (r *replica) serve(ctx context.Context, listener, internal net.Listener) error {
	draining := make(chan struct{})
	r.shareChecks()
	cfg := httpapi.Config{
		Orders: r.orders, Catalog: r.catalog(), Stock: r.db, Audit: r.audit, Ready: r.ready, ReadyToRead: r.readyToRead, Notes: r.notes, Replica: r.cmd.Replica, RequestTimeout: r.cmd.RequestTimeout,
		JWTSecret: []byte(r.cmd.JWTSecret), Keys: r.keys, Audience: r.cmd.JWTAudience, Issuer: r.cmd.JWTIssuer, TokenType: r.cmd.JWTType, AdminToken: r.cmd.AdminToken,
		PaymentService: r.cmd.Payments == "service", TestMode: r.cmd.InsecureDemo,
		Limits: r.limits, TrustedProxies: r.cmd.TrustedProxies, IPv6Prefix: r.cmd.IPv6Prefix,
		Registry: r.registry, Traces: r.tracing.Provider, Logger: r.logger, Levels: r.levels,
		MaxStreams: r.cmd.MaxStreams, MaxStreamsAddress: r.cmd.MaxStreamsAddress, Draining: draining,
	}
	if r.mirror != nil {
		cfg.View = r.mirror
	}
	if inspector := r.backend.Inspector(); inspector != nil {
		cfg.Locks = inspector
	}
	handler, err := httpapi.New(cfg)
	if err != nil {
		return err
	}
	stopPprof, err := r.servePprof()
	if err != nil {
		return err
	}
	defer stopPprof()
	server := &http.Server{
		Handler:           r.closeConnections(handler),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		// Longer than the request time-out, so that it never truncates an answer.
		WriteTimeout: r.cmd.RequestTimeout + 10*time.Second,
		IdleTimeout:  2 * time.Minute,
		// Above the handler's own limit, so that the handler rejects the request.
		MaxHeaderBytes: 64 << 10,
		// The handler also answers OPTIONS *.
		DisableGeneralOptionsHandler: true,
		TLSConfig:                    r.tls,
		ErrorLog:                     slog.NewLogLogger(r.logger.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(func() { close(draining) }) // ends event streams
	ended := make(chan error, 2)
	if internal != nil {
		server := newInternalServer(handler, r.logger)
		go func() { ended <- server.Serve(internal) }()
		defer stopServer(server) // after the drain, so that readiness shows it
		r.logger.Info("serving health and metrics", "addr", internal.Addr().String())
	}
	go func() {
		if server.TLSConfig != nil {
			ended <- server.ServeTLS(listener, "", "")
		} else {
			ended <- server.Serve(listener)
		}
	}()
	r.logger.Info("serving", "addr", listener.Addr().String(), "strategy", r.strategy.Name, "fence", string(r.fence))
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	return r.drain(ctx, server)
}
