package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"

	"flashsale/internal/backend"
	"flashsale/internal/doctor"
	"flashsale/internal/telemetry"
	"flashsale/internal/version"
)

// telemetryFlags say what a replica shows of itself.
type telemetryFlags struct {
	MetricsSKUs  int     `name:"metrics-skus" default:"100" placeholder:"N" help:"SKUs whose stock /metrics shows, at most (${default}), the first in byte order; the others are counted."`
	OTLPEndpoint string  `name:"otlp-endpoint" placeholder:"URL" help:"Collector that traces are sent to, like http://127.0.0.1:4318; OTEL_EXPORTER_OTLP_PROTOCOL says how. Off when empty."`
	TraceRatio   float64 `default:"0.01" placeholder:"R" help:"Part of the requests that is traced, from 0 to 1 (${default}); one with a traceparent says for itself whether it is."`
	PprofAddr    string  `placeholder:"ADDR" help:"Private address that serves profiles, such as 127.0.0.1:6060; off when empty."`
}

func (f *telemetryFlags) check() error {
	switch {
	case f.MetricsSKUs < 0:
		return fmt.Errorf("--metrics-skus is %d, must not be negative", f.MetricsSKUs)
	case !(f.TraceRatio >= 0 && f.TraceRatio <= 1): // NaN, too
		return fmt.Errorf("--trace-ratio is %v, must be from 0 to 1", f.TraceRatio)
	}
	return nil
}

func (f *telemetryFlags) openTracing(ctx context.Context, replica string, logger *slog.Logger) (*telemetry.Tracing, error) {
	return telemetry.OpenTracing(ctx, telemetry.TracingConfig{
		Endpoint: f.OTLPEndpoint, Ratio: f.TraceRatio, Replica: replica, Version: version.Release(), Logger: logger,
	})
}

// register makes the metrics of what is open by now.
func (r *replica) register() {
	r.registry.MustRegister(telemetry.Build(version.Release(), r.strategy.Name, string(r.fence)),
		collectors.NewDBStatsCollector(r.db.SQL, "orders"), telemetry.NewStock(r.catalog(), r.cmd.MetricsSKUs))
	upkeep := &telemetry.Upkeep{Durable: func(ctx context.Context) (bool, error) { return doctor.Durable(ctx, r.db) }}
	if r.backend.Etcd != nil {
		upkeep.Etcd = func(ctx context.Context) (size, quota int64, alarms int, err error) {
			usage, err := backend.ReadUsage(ctx, r.backend.Etcd)
			return usage.Size, usage.Quota, len(usage.Alarms), err
		}
	}
	r.registry.MustRegister(upkeep)
	if r.mirrorDB != nil {
		r.registry.MustRegister(collectors.NewDBStatsCollector(r.mirrorDB.SQL, "mirror"))
	}
}

// servePprof serves profiles on an address of its own, which should be private.
func (r *replica) servePprof() (stop func(), err error) {
	if r.cmd.PprofAddr == "" {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", r.cmd.PprofAddr)
	if err != nil {
		return nil, fmt.Errorf("--pprof-addr: %w", err)
	}
	r.logger.Info("profiles", "addr", listener.Addr().String())
	if ip := listener.Addr().(*net.TCPAddr).IP; !ip.IsLoopback() && !ip.IsPrivate() {
		r.logger.Warn("profiles can be had from outside: --pprof-addr is not a private address", "addr", listener.Addr().String())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			r.logger.Warn("pprof", "error", err)
		}
	}()
	return func() { _ = server.Close(); <-ended }, nil
}
