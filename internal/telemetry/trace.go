package telemetry

import (
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
	// Endpoint is a collector's URL, like http://127.0.0.1:4318; "" turns tracing
	// off. What else there is to say, the standard's OTEL_EXPORTER_OTLP_PROTOCOL
	// (http/protobuf or grpc), _HEADERS, _TIMEOUT, _COMPRESSION and _CERTIFICATE do.
	Endpoint string
	// Ratio of the requests that are traced, from 0 to 1, unless their traceparent
	// says whether they are.
	Ratio float64
	// Replica and Version name this process.
	Replica, Version string
	// Logger gets what the exporter fails at.
	Logger *slog.Logger
}

// maxLinks lets the span of a batch name each order of it: a desk's largest has 512.
const maxLinks = 512

// Tracing sends spans to a collector, behind the requests' backs: its queue is
// bounded, and what does not fit is dropped. A nil Tracing is one that is off.
type Tracing struct{ provider *sdktrace.TracerProvider }

// OpenTracing returns nil when it is off. It does not connect: a collector that
// cannot be reached is no reason not to sell.
func OpenTracing(ctx context.Context, cfg TracingConfig) (*Tracing, error) {
	if cfg.Endpoint == "" {
		return nil, nil //nolint:nilnil // nil is off
	}
	exporter, err := newExporter(ctx, cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "flashsale"),
		attribute.String("service.version", cfg.Version), attribute.String("service.instance.id", cfg.Replica)),
		resource.WithTelemetrySDK(), resource.WithFromEnv()) // the environment wins
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	// The SDK has no other way to say what went wrong.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { cfg.Logger.Warn("tracing", "error", err) }))
	limits := sdktrace.NewSpanLimits()
	limits.LinkCountLimit = maxLinks
	return &Tracing{sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter), sdktrace.WithResource(about), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSampler(sdktrace.ParentBased(requests{sdktrace.TraceIDRatioBased(cfg.Ratio)})),
	)}, nil
}

// Provider is what spans are made with; nil when tracing is off.
func (t *Tracing) Provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// Tracer is the one for the spans of the service's own code; nil when tracing is off.
func (t *Tracing) Tracer() trace.Tracer {
	if t == nil {
		return nil
	}
	return t.provider.Tracer("flashsale")
}

// Close sends what is left, until ctx ends.
func (t *Tracing) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// newExporter makes the exporter of OTEL_EXPORTER_OTLP_TRACES_PROTOCOL.
func newExporter(ctx context.Context, endpoint string) (sdktrace.SpanExporter, error) {
	to, err := url.Parse(endpoint)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("--otlp-endpoint: %q is not a URL like http://host:4318", endpoint)
	}
	protocol := os.Getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = os.Getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "grpc":
		return otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(to.String()))
	case "", "http/protobuf":
		return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(to.JoinPath("v1/traces").String()))
	}
	return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL is %q, must be grpc or http/protobuf", protocol)
}

// requests samples only what begins with a request: what the mirror reads and how
// a lease is renewed would be thousands of traces of one span.
type requests struct{ sdktrace.Sampler }

func (s requests) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Kind != trace.SpanKindServer {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop}
	}
	return s.Sampler.ShouldSample(p)
}
