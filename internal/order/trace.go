package order

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/telemetry"
)

// This file is the spans of an order's way. A desk works for many orders at once:
// what it does is a span in the trace of the first of them that is traced, and
// what it commits is linked with all of them. Without a tracer, or where no order
// is traced, none of this does anything.

// step is a span of work done for the request that ctx belongs to; end ends it,
// with what came of it.
func (cfg *Config) step(ctx context.Context, name string, options ...trace.SpanStartOption) (_ context.Context, end func(error)) {
	if cfg.Tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, noSpan
	}
	ctx, span := cfg.Tracer.Start(ctx, name, options...)
	return ctx, func(err error) { endSpan(span, err) }
}

func noSpan(error) {}

// endSpan keeps the error's text, which may name servers, in the trace: it is for
// the same people as the log.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

func ofSKU(sku string) trace.SpanStartOption {
	return trace.WithAttributes(attribute.String("flashsale.sku", sku))
}

// spanOf is ctx as one of the first request that is traced, of those whose
// tickets are given.
func (cfg *Config) spanOf(ctx context.Context, tickets ...[]*ticket) context.Context {
	if cfg.Tracer == nil {
		return ctx
	}
	for _, some := range tickets {
		for _, t := range some {
			if span := trace.SpanFromContext(t.request); span.SpanContext().IsSampled() {
				return trace.ContextWithSpan(ctx, span)
			}
		}
	}
	return ctx
}

// waiting is the context of a traced request whose order waits at a desk. It
// stands in place of the request's own: other tickets are not larger for it.
type waiting struct {
	context.Context // the request's
	tracer          trace.Tracer
	span            trace.Span
}

// waitsFrom begins the span of a ticket's waiting at its desk.
func (t *ticket) waitsFrom(tracer trace.Tracer) {
	if tracer == nil || !trace.SpanContextFromContext(t.request).IsSampled() {
		return
	}
	_, span := tracer.Start(t.request, "desk wait", ofSKU(t.req.SKU))
	t.request = &waiting{t.request, tracer, span}
}

// waitsAgain begins another one.
func (t *ticket) waitsAgain() {
	if w, traced := t.request.(*waiting); traced {
		t.request = w.Context
		t.waitsFrom(w.tracer)
	}
}

// waited ends it. Only who has taken the ticket, or left with it, may call this.
func (t *ticket) waited(err error) {
	if w, traced := t.request.(*waiting); traced {
		endSpan(w.span, err)
	}
}

// commitSpan is the span of a group's transaction, linked with each order in it.
func (c *committer) commitSpan(ctx context.Context, group []*write) (_ context.Context, end func(error)) {
	if c.cfg.Tracer == nil {
		return ctx, noSpan
	}
	orders := 0
	var spans []trace.Span
	for _, w := range group {
		orders += len(w.orders)
		for _, t := range w.tickets {
			if span := trace.SpanFromContext(t.request); span.SpanContext().IsSampled() {
				spans = append(spans, span)
			}
		}
	}
	if len(spans) > 0 {
		ctx = trace.ContextWithSpan(ctx, spans[0])
	}
	links := make([]trace.Link, len(spans))
	for i, span := range spans {
		links[i].SpanContext = span.SpanContext()
	}
	ctx, end = c.cfg.step(ctx, "commit", trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("flashsale.orders", orders), attribute.Int("flashsale.skus", len(group))))
	for _, span := range spans { // and the other way round, for who looks at an order
		span.AddLink(trace.Link{SpanContext: trace.SpanContextFromContext(ctx)})
	}
	return ctx, end
}

// maxLogged bounds the orders that a line of the log names.
const maxLogged = 16

// ids are the orders of a batch and their requests, for the log.
func (d *decision) ids() (orders, requests []string) {
	for i, o := range d.orders[:min(len(d.orders), maxLogged)] {
		orders = append(orders, o.ID.String())
		if id := telemetry.RequestID(d.accepted[i].request); id != "" {
			requests = append(requests, id)
		}
	}
	return orders, requests
}
