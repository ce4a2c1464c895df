package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/net/netutil"

	"flashsale/internal/backend"
	"flashsale/internal/httpapi"
	"flashsale/internal/limit"
	"flashsale/internal/mirror"
	"flashsale/internal/order"
	"flashsale/internal/settings"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
)

type serveCmd struct {
	Addr    string `default:"${addr}" help:"Address to listen on."`
	Replica string `exact:"" placeholder:"NAME" help:"Name of this replica (default: host name and pid)."`
	capacityFlags
	mysqlFlags
	backend.Servers
	guardFlags
	logFlags

	LockTTL time.Duration `name:"lock-ttl" default:"5s" help:"How long a lock outlives a replica that died; under etcd 2s at least, less is raised to that."`

	accessFlags
	forwardFlags
	limitFlags

	Quantum time.Duration `default:"${quantum}" help:"How long a replica keeps a SKU's lock while another one waits that cannot send it orders; api config changes it later."`

	PaymentWindow  time.Duration `default:"15m" help:"How long an order stays reserved without payment."`
	RequestTimeout time.Duration `default:"5s" help:"Longest time from an order's arrival to its answer."`
	StartTimeout   time.Duration `default:"60s" help:"Longest wait for MySQL, and then for the lock server, at start."`
	DrainDelay     time.Duration `default:"0s" help:"At the end: how long to serve on after /readyz has said no; longer than a load balancer takes to see that, such as 5s."`
	DrainTimeout   time.Duration `default:"10s" help:"At the end: longest wait for requests that are being served."`
	ThinkTime      time.Duration `default:"0s" help:"Lab only: a pause between reading and writing stock."`

	telemetryFlags
	MaxStreams        int `default:"5000" placeholder:"N" help:"Streams of events that are open at the same time, at most (${default})."`
	MaxStreamsAddress int `default:"0" placeholder:"N" help:"Of them, those from one IPv4 address or IPv6 network of 64 bits: behind a proxy together with --trusted-proxies. 0 is a tenth of --max-streams, and at least 10. Beyond it: 429 with Retry-After."`

	serverTLSFlags
}

func (c *serveCmd) check() error {
	for _, d := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"--lock-ttl", c.LockTTL, time.Second}, {"--payment-window", c.PaymentWindow, time.Second},
		{"--request-timeout", c.RequestTimeout, 100 * time.Millisecond}, {"--start-timeout", c.StartTimeout, time.Second},
		{"--drain-delay", c.DrainDelay, 0}, {"--drain-timeout", c.DrainTimeout, 0}, {"--think-time", c.ThinkTime, 0},
	} {
		if d.value < d.least {
			return fmt.Errorf("%s is %s, must be at least %s", d.name, d.value, d.least)
		}
	}
	if err := c.telemetryFlags.check(); err != nil {
		return err
	}
	if err := c.capacityFlags.check(); err != nil {
		return err
	}
	switch {
	case c.MaxStreams < 1:
		return fmt.Errorf("--max-streams is %d, must be at least 1", c.MaxStreams)
	case c.MaxStreamsAddress < 0:
		return fmt.Errorf("--max-streams-address is %d, must be at least 1, or 0 for a tenth of --max-streams", c.MaxStreamsAddress)
	}
	if err := c.flagValues().Check(); err != nil {
		return err
	}
	if err := c.accessFlags.check(); err != nil {
		return err
	}
	return c.limitFlags.check()
}

// gcPercent lets the heap grow to two and a half times what is live before it is
// collected. Nearly all that an order allocates is garbage when it is answered,
// and hundreds of waiting buyers' stacks are scanned each time: a tenth of the CPU
// for some 15 MiB. GOGC in the environment wins.
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
		c.Replica = defaultReplica()
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	level := new(slog.LevelVar)
	level.Set(c.Level)
	logger := c.logger(c.Replica, level, s)
	keys, err := c.keys(logger)
	if err != nil {
		return err
	}
	secure, err := c.serverTLS(logger)
	if err != nil {
		return err
	}
	// Bound before anything else: a taken port is the commonest mistake, and
	// the quickest to find out.
	listener, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("--addr: %w", err)
	}
	listener = netutil.LimitListener(listener, c.MaxConnections)
	defer func() { _ = listener.Close() }() // the server closes it first
	var forwarding *order.Forwarding
	if row.Write == strategy.Batch {
		if forwarding, err = c.forwarding(c.Addr, c.Replica, &c.accessFlags, logger); err != nil {
			return err
		}
		defer func() { _ = forwarding.Listener.Close() }() // the order service closes it first
	}

	r := &replica{cmd: c, strategy: row, fence: fence, logger: logger, level: level, keys: keys, tls: secure, forwarding: forwarding, limits: c.limits(), registry: prometheus.NewRegistry()}
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() { err = errors.Join(err, r.close()) }()
	if r.tracing, err = c.openTracing(ctx, c.Replica, logger); err != nil {
		return err
	}
	if err := r.connect(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to end while waiting for a server
		}
		return err
	}
	return r.serve(ctx, listener)
}

// replica is what serve is made of, in the order in which it is closed last.
type replica struct {
	cmd      *serveCmd
	strategy strategy.Strategy
	fence    strategy.Fence
	logger   *slog.Logger
	keys     *httpapi.Keys // nil where tokens are checked by a secret
	tls      *tls.Config   // nil for plain HTTP
	// forwarding is nil where orders are not forwarded.
	forwarding *order.Forwarding
	limits     *limit.Limits
	level      *slog.LevelVar
	registry   *prometheus.Registry
	tracing    *telemetry.Tracing // nil when it is off

	db       *stock.DB
	backend  *backend.Backend // the strategy's lock, and its server
	mirrorDB *stock.DB        // its own small pool; nil without a mirror
	mirror   *mirror.Mirror   // nil without a mirror
	watchman *watchman
	orders   *order.Service
	settings *settings.Watch // nil where the strategy has no etcd
	// audit and levels read what MySQL does not have; nil where it has all.
	audit  func(context.Context) (stock.Report, error)
	levels func(context.Context) ([]stock.Level, error)
	// stopExpirer ends the expiry of orders, waits until it has, and lets another
	// replica go on with it.
	stopExpirer func(context.Context) error
	// stopMirror ends the mirror and waits until it has.
	stopMirror func(context.Context) error
	// stopSettings ends the watch of the settings.
	stopSettings func()
	draining     atomic.Bool
}

// ready asks every server that an order needs whether it would take it.
func (r *replica) ready(ctx context.Context) map[string]error {
	// At the same time: one that hangs must not make another look as if it did.
	var inMySQL, inServer error
	var both sync.WaitGroup
	both.Go(func() { inMySQL = at(r.cmd.address(), r.db.TryWrite(ctx)) })
	both.Go(func() { inServer = at(backend.Address(r.strategy, &r.cmd.Servers), r.backend.Ping(ctx)) })
	both.Wait()
	checks := r.serving(inMySQL)
	if name := string(r.strategy.Server); name != "" {
		checks[name] = inServer
	}
	if err := r.watchman.halted(); err != nil {
		checks["guard"] = guardReason(err)
	}
	return checks
}

// readyToRead asks whether MySQL answers. A payment that it then refuses is 503.
func (r *replica) readyToRead(ctx context.Context) map[string]error {
	_, err := r.db.Now(ctx)
	return r.serving(at(r.cmd.address(), err))
}

// serving are the checks of all that this replica does.
func (r *replica) serving(inMySQL error) map[string]error {
	checks := map[string]error{"mysql": inMySQL}
	if r.draining.Load() {
		checks["replica"] = httpapi.Reason("draining")
	}
	return checks
}

// at says which server an error is of, for the log, and for everybody that it is not
// silence.
func at(address string, err error) error {
	switch {
	case err == nil:
		return nil
	case stock.IsReadOnly(err), stock.IsDenied(err), errors.Is(err, backend.ErrNoWrites):
		return fmt.Errorf("%s: %w (%w)", address, httpapi.Reason("takes no writes"), err)
	}
	return fmt.Errorf("%s: %w", address, err)
}

// serve answers requests until ctx ends, then finishes those that are in hand.
func (r *replica) serve(ctx context.Context, listener net.Listener) error {
	draining := make(chan struct{})
	cfg := httpapi.Config{
		Orders: r.orders, Catalog: r.catalog(), Stock: r.db, Audit: r.audit, Ready: r.ready, ReadyToRead: r.readyToRead, Notes: r.notes, Replica: r.cmd.Replica, RequestTimeout: r.cmd.RequestTimeout,
		JWTSecret: []byte(r.cmd.JWTSecret), Keys: r.keys, Audience: r.cmd.JWTAudience, AdminToken: r.cmd.AdminToken,
		Limits: r.limits, TrustedProxies: r.cmd.TrustedProxies,
		Registry: r.registry, Traces: r.tracing.Provider(), Logger: r.logger, Levels: r.levels,
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
		Handler:           r.parting(handler),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		// Behind the request's own time, so that it never cuts an answer off.
		WriteTimeout: r.cmd.RequestTimeout + 10*time.Second,
		IdleTimeout:  2 * time.Minute,
		// Above what the handler takes, so that it is the handler that refuses.
		MaxHeaderBytes: 64 << 10,
		// The handler says what is not served, of OPTIONS * as of all else.
		DisableGeneralOptionsHandler: true,
		TLSConfig:                    r.tls,
		ErrorLog:                     slog.NewLogLogger(r.logger.Handler(), slog.LevelDebug),
	}
	server.RegisterOnShutdown(func() { close(draining) }) // streams would never end by themselves
	ended := make(chan error, 1)
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
