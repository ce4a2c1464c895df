package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

type requestIDKey struct{}

// identified is a context of one allocation; context.WithValue would make two of
// a string, for each request.
type identified struct {
	context.Context
	id string
}

func (c *identified) Value(key any) any {
	if key == (requestIDKey{}) {
		return c.id
	}
	return c.Context.Value(key)
}

// WithRequestID is ctx with the id of the request that it belongs to.
func WithRequestID(ctx context.Context, id string) context.Context {
	return &identified{ctx, id}
}

// RequestID is the id of the request that ctx belongs to; "" if none is known.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Logged is a handler that puts the ids in a line's context into it: request_id,
// and trace_id where there is a trace.
func Logged(next slog.Handler) slog.Handler { return idHandler{next} }

type idHandler struct{ slog.Handler }

func (h idHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h idHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return idHandler{h.Handler.WithAttrs(attrs)}
}

func (h idHandler) WithGroup(name string) slog.Handler { return idHandler{h.Handler.WithGroup(name)} }
