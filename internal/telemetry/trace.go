// Package telemetry provides traces, the ids in the log, and the metrics that belong to
// no other package. Buyers are not affected when it fails or is off.
package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// TracingConfig says where traces go.
type TracingConfig struct {
	// Endpoint is a collector's URL, like http://127.0.0.1:4318; "" turns tracing off.
	// The standard variables OTEL_EXPORTER_OTLP_PROTOCOL (http/protobuf or grpc),
	// _HEADERS, _TIMEOUT, _COMPRESSION and _CERTIFICATE also apply.
	Endpoint string
	// Ratio is the share of requests that are traced, from 0 to 1. A request's
	// traceparent overrides it.
	Ratio float64
	// Replica and Version identify this process.
	Replica, Version string
	// Logger receives the exporter's errors.
	Logger *slog.Logger
}

// maxLinks lets a batch's span link to each of its orders, at most 512.
const maxLinks = 512

// Tracing sends spans to a collector in the background. Its queue is bounded; spans
// that do not fit are dropped.
type Tracing struct {
	// Provider, and Tracer for the service's own spans, are nil if tracing is off.
	Provider trace.TracerProvider
	Tracer   trace.Tracer
	// Close sends the remaining spans until ctx ends.
	Close func(context.Context) error
}

// OpenTracing does not connect: an unreachable collector must not keep a replica from
// selling.
func OpenTracing(ctx context.Context, cfg TracingConfig) (Tracing, error) {
	if cfg.Endpoint == "" {
		return Tracing{Close: func(context.Context) error { return nil }}, nil
	}
	exporter, err := newExporter(ctx, cfg.Endpoint)
	if err != nil {
		return Tracing{}, err
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "flashsale"),
		attribute.String("service.version", cfg.Version), attribute.String("service.instance.id", cfg.Replica)),
		resource.WithTelemetrySDK(), resource.WithFromEnv()) // the environment takes precedence
	if err != nil {
		return Tracing{}, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	// The SDK reports errors in no other way.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { cfg.Logger.Warn("tracing", "error", err) }))
	limits := sdktrace.NewSpanLimits()
	limits.LinkCountLimit = maxLinks
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSampler(sdktrace.ParentBased(requests{sdktrace.TraceIDRatioBased(cfg.Ratio)})))
	return Tracing{Provider: provider, Tracer: provider.Tracer("flashsale"), Close: provider.Shutdown}, nil
}

// newExporter returns the exporter that OTEL_EXPORTER_OTLP_TRACES_PROTOCOL selects.
func newExporter(ctx context.Context, endpoint string) (sdktrace.SpanExporter, error) {
	to, err := url.Parse(endpoint)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("--otlp-endpoint: %q is not a URL like http://host:4318", endpoint)
	}
	switch protocol := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"), os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")); protocol {
	case "grpc":
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(to.String()))
	case "", "http/protobuf":
		return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to.JoinPath("v1/traces").String()))
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q, must be grpc or http/protobuf", protocol)
	}
}

// requests samples only traces that start with a request: reads of the mirror and
// renewals of leases would be thousands of traces with one span.
type requests struct{ sdktrace.Sampler }

func (s requests) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind != trace.SpanKindServer {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return s.Sampler.ShouldSample(p)
}
