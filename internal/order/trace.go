package order

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/telemetry"
)

// This file makes the spans of an order. A desk works for many orders at once: its
// spans belong to the trace of the first traced order, and its commits are linked with
// all of them. Without a tracer or a traced order these functions do nothing.

// step starts a span in the trace of ctx; end ends it with the outcome.
func (cfg *Config) step(ctx context.Context, name string, options ...trace.SpanStartOption) (_ context.Context, end func(error)) {
	if cfg.Tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, func(error) {}
	}
	ctx, span := cfg.Tracer.Start(ctx, name, options...)
	return ctx, func(err error) { endSpan(span, err) }
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

func ofSKU(sku string) trace.SpanStartOption {
	return trace.WithAttributes(attribute.String("flashsale.sku", sku))
}

// spanOf puts the span of the first traced request among the tickets into ctx.
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

func (t *ticket) beginWait(tracer trace.Tracer) {
	if tracer == nil || !trace.SpanContextFromContext(t.request).IsSampled() {
		return
	}
	_, t.waitSpan = tracer.Start(t.request, "desk wait", ofSKU(t.sku))
}

// endWait is called only by the goroutine that took the ticket, or made it leave.
func (t *ticket) endWait(err error) {
	if t.waitSpan != nil {
		endSpan(t.waitSpan, err)
	}
}

// commitSpan starts the span of a group's transaction, linked with each order in it.
func (c *committer) commitSpan(ctx context.Context, group []*write) (_ context.Context, end func(error)) {
	if c.cfg.Tracer == nil {
		return ctx, func(error) {}
	}
	orders := 0
	var spans []trace.Span
	var links []trace.Link
	for _, w := range group {
		orders += len(w.orders)
		for _, t := range w.tickets {
			if span := trace.SpanFromContext(t.request); span.SpanContext().IsSampled() {
				spans, links = append(spans, span), append(links, trace.Link{SpanContext: span.SpanContext()})
			}
		}
	}
	if len(spans) > 0 {
		ctx = trace.ContextWithSpan(ctx, spans[0])
	}
	ctx, end = c.cfg.step(ctx, "commit", trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("flashsale.orders", orders), attribute.Int("flashsale.skus", len(group))))
	for _, span := range spans { // so that an order's trace also leads to the commit
		span.AddLink(trace.Link{SpanContext: trace.SpanContextFromContext(ctx)})
	}
	return ctx, end
}

func (d *decision) ids() (orders, requests []string) {
	const maxLogged = 16 // orders in one log line
	for i, o := range d.orders[:min(len(d.orders), maxLogged)] {
		orders = append(orders, o.ID.String())
		if id := telemetry.RequestID(d.accepted[i].request); id != "" {
			requests = append(requests, id)
		}
	}
	return orders, requests
}
