package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/order"
	"flashsale/internal/record"
	"flashsale/internal/strategy"
	"flashsale/internal/telemetry"
	"flashsale/internal/version"
)

// telemetryFlags configure metrics, traces and profiles.
type telemetryFlags struct {
	MetricsSKUs  int     `name:"metrics-skus" default:"100" placeholder:"N" help:"Maximum number of SKUs whose stock /metrics shows, the first ones in byte order (${default}). The others are only counted."`
	OTLPEndpoint string  `name:"otlp-endpoint" placeholder:"URL" help:"Collector for traces, like http://127.0.0.1:4318. OTEL_EXPORTER_OTLP_PROTOCOL selects the protocol. Tracing is off by default."`
	TraceRatio   float64 `default:"0.01" placeholder:"R" help:"Share of requests that are traced, from 0 to 1 (${default}). A request's traceparent overrides it."`
	TraceSteps   string  `name:"trace-steps" placeholder:"FILE" help:"For experiments: a file that gets a line of JSON for each step of each order, with the names of customers. Off by default."`
	// StopBeforeSteps is for the race lab only.
	StopBeforeSteps string `name:"stop-before-steps" hidden:"" placeholder:"ADDR"`

	PprofAddr string `placeholder:"ADDR" help:"Private address that serves pprof profiles, for example 127.0.0.1:6060. Off by default."`
}

func (f *telemetryFlags) check() error {
	switch {
	case f.MetricsSKUs < 0:
		return fmt.Errorf("--metrics-skus is %d, must not be negative", f.MetricsSKUs)
	case !(f.TraceRatio >= 0 && f.TraceRatio <= 1): // also rejects NaN
		return fmt.Errorf("--trace-ratio is %v, must be from 0 to 1", f.TraceRatio)
	}
	return nil
}

// closeTracing sends the last spans. A collector that does not answer is not an error
// of this replica.
func (r *replica) closeTracing(ctx context.Context) error {
	if err := r.tracing.Close(ctx); err != nil {
		r.logger.Warn("the last spans were not sent", "error", err)
	}
	return nil
}

// openSteps opens the file of --trace-steps.
func (r *replica) openSteps() (err error) {
	if r.cmd.TraceSteps == "" {
		return nil
	}
	r.steps, err = record.Open(r.cmd.TraceSteps, record.Step{
		Replica: r.cmd.Replica, Strategy: r.strategy.Name, Fence: string(r.fence), PID: os.Getpid(), Addr: r.cmd.ForwardAdvertise,
	}, r.logger)
	if err != nil {
		return fmt.Errorf("--trace-steps: %w", err)
	}
	r.atClose(serversRound, "the file of --trace-steps", r.steps.Close)
	return nil
}

// stopBeforeSteps returns what makes an order wait before each step until the race lab lets
// it go on: it connects to the lab, says where it is, and waits for the end of the connection.
// So it also goes on without the lab, when this replica begins to stop, and after the request
// timeout. It returns nil if the flag is not set.
func (r *replica) stopBeforeSteps(ctx context.Context) func(order.Step) {
	if r.cmd.StopBeforeSteps == "" {
		return nil
	}
	return func(s order.Step) {
		if s == order.BeforeCommit && r.strategy.Write == strategy.Batch {
			return // MySQL refuses a batch that was decided some seconds ago
		}
		ctx, cancel := context.WithTimeout(ctx, r.cmd.RequestTimeout)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.cmd.StopBeforeSteps)
		if err == nil {
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			_, err = fmt.Fprintln(conn, r.cmd.Replica, s)
			_, _ = conn.Read(make([]byte, 1)) // its end is the word
		}
		if err != nil && ctx.Err() == nil {
			r.logger.Warn("the lab of --stop-before-steps is gone; the order goes on", "step", string(s), "error", err)
		}
	}
}

// register registers the metrics of the open servers.
func (r *replica) register() {
	r.registry.MustRegister(telemetry.Build(version.Release(), r.strategy.Name, string(r.fence)),
		collectors.NewDBStatsCollector(r.db.SQL, "orders"), telemetry.Stock(r.catalog(), r.cmd.MetricsSKUs))
	var usage func(context.Context) (size, quota int64, alarms int, err error)
	if r.backend.Etcd != nil {
		usage = func(ctx context.Context) (size, quota int64, alarms int, err error) {
			read, err := backend.ReadUsage(ctx, r.backend.Etcd)
			return read.Size, read.Quota, len(read.Alarms), err
		}
	}
	r.registry.MustRegister(telemetry.Upkeep(func(ctx context.Context) (bool, error) { return doctor.Durable(ctx, r.db) }, usage))
	if r.mirrorDB != nil {
		r.registry.MustRegister(collectors.NewDBStatsCollector(r.mirrorDB.SQL, "mirror"))
	}
}

// servePprof serves profiles on a separate address, which should be private.
func (r *replica) servePprof() (stop func(), err error) {
	if r.cmd.PprofAddr == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", r.cmd.PprofAddr)
	if err != nil {
		return nil, fmt.Errorf("--pprof-addr: %w", err)
	}
	r.logger.Info("serving pprof", "addr", listener.Addr().String())
	if ip := listener.Addr().(*net.TCPAddr).IP; !ip.IsLoopback() && !ip.IsPrivate() {
		r.logger.Warn("pprof is reachable from other hosts: --pprof-addr is not a private address", "addr", listener.Addr().String())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			r.logger.Warn("pprof server failed", "error", err)
		}
	})
	return func() { _ = server.Close(); serving.Wait() }, nil
}
