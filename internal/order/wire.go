package order

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/forward"
	"flashsale/internal/forward/wire"
	"flashsale/internal/lock"
	"flashsale/internal/stock"
	"flashsale/internal/telemetry"
)

// This file converts orders and answers to and from the messages between replicas.

// outcomes are the answers without an order, and their errors. The first match counts.
var outcomes = []struct {
	outcome wire.Outcome
	err     error
}{
	{wire.Outcome_MOVED, errMoved},
	{wire.Outcome_UNKNOWN, ErrUnknown}, // before the errors after which nothing was applied
	{wire.Outcome_SOLD_OUT, ErrSoldOut},
	{wire.Outcome_INSUFFICIENT, ErrInsufficient},
	{wire.Outcome_NOT_OPEN, ErrNotOpen},
	{wire.Outcome_OVER, ErrOver},
	{wire.Outcome_CUSTOMER_LIMIT, ErrCustomerLimit},
	{wire.Outcome_TOO_MANY_UNPAID, ErrTooManyUnpaid},
	{wire.Outcome_PRICE_CHANGED, ErrPriceChanged},
	{wire.Outcome_KEY_REUSED, ErrKeyReused},
	{wire.Outcome_BUSY, ErrBusy},
	{wire.Outcome_UNAVAILABLE, ErrUnavailable},
	{wire.Outcome_IN_FLIGHT, ErrInFlight},
	{wire.Outcome_TOKENS_BEHIND, ErrTokensBehind},
	{wire.Outcome_ADOPTED, ErrAdopted},
	{wire.Outcome_UNKNOWN_SKU, stock.ErrUnknownSKU},
}

func toWire(number uint64, p *Placed, err error) *forward.Answer {
	if err == nil {
		o := &p.Order
		a := &forward.Answer{
			Number: number, Outcome: wire.Outcome_PLACED, Id: o.ID[:], Quantity: o.Quantity, PriceCents: o.PriceCents, Currency: o.Currency, Limit: o.Limit,
			Fence: o.Fence, Seq: o.Seq, CreatedUs: o.CreatedAt.UnixMicro(), ExpiresUs: o.ExpiresAt.UnixMicro(),
		}
		if p.Replayed {
			a.Outcome = wire.Outcome_REPLAYED
		}
		return a
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			a := &forward.Answer{Number: number, Outcome: o.outcome, Detail: err.Error()}
			if still, ok := errors.AsType[*StillHeldError](err); ok {
				a.ExpiresUs = still.Until.UnixMicro()
			}
			return a
		}
	}
	return &forward.Answer{Number: number, Outcome: wire.Outcome_INTERNAL, Detail: err.Error()}
}

func fromWire(a *forward.Answer, r *Request) (Placed, error) {
	switch a.Outcome {
	case wire.Outcome_PLACED, wire.Outcome_REPLAYED:
		if len(a.Id) != len(ID{}) {
			return Placed{}, fmt.Errorf("%w: the seller's answer has no order ID", ErrUnknown)
		}
		o := Order{
			ID: ID(a.Id), SKU: r.SKU, Customer: r.Customer, Key: r.Key, Fingerprint: r.Fingerprint(), Quantity: a.Quantity,
			PriceCents: a.PriceCents, Currency: a.Currency, Limit: a.Limit, Fence: a.Fence, Seq: a.Seq,
			CreatedAt: time.UnixMicro(a.CreatedUs).UTC(), ExpiresAt: time.UnixMicro(a.ExpiresUs).UTC(),
		}
		o.resetToCreated()
		return Placed{Replayed: a.Outcome == wire.Outcome_REPLAYED, Order: o}, nil
	}
	if a.Outcome == wire.Outcome_CUSTOMER_LIMIT && a.ExpiresUs != 0 {
		return Placed{}, &StillHeldError{Until: time.UnixMicro(a.ExpiresUs).UTC()}
	}
	for _, o := range outcomes {
		if a.Outcome == o.outcome {
			return Placed{}, &sellersError{is: o.err, detail: a.Detail}
		}
	}
	// A newer release may have more outcomes.
	return Placed{}, fmt.Errorf("%w: the seller answered %s: %s", ErrUnknown, a.Outcome, a.Detail)
}

// sellersError is an error of the seller, with its text.
type sellersError struct {
	is     error
	detail string
}

func (e *sellersError) Error() string { return e.detail }
func (e *sellersError) Unwrap() error { return e.is }

var traceContext propagation.TraceContext

// orderToWire makes the message that sends r to a tenure. left is the time that remains for the answer.
func orderToWire(ctx context.Context, r *Request, token lock.Token, left time.Duration) *forward.Order {
	o := &forward.Order{
		Sku: r.SKU, Token: uint64(token), Customer: []byte(r.Customer), Key: []byte(r.Key), Quantity: r.Quantity,
		PriceCents: r.PriceCents, Currency: r.Currency, LeftUs: left.Microseconds(), RequestId: telemetry.RequestID(ctx), Id: r.id[:],
	}
	if trace.SpanContextFromContext(ctx).IsSampled() {
		carrier := propagation.MapCarrier{}
		traceContext.Inject(ctx, carrier)
		o.Traceparent = carrier["traceparent"]
	}
	return o
}

func (ds *desks) ticketOf(from *forward.Source, o *forward.Order, now time.Time) *ticket {
	ctx := ds.ctx
	if o.RequestId != "" {
		ctx = telemetry.WithRequestID(ctx, o.RequestId)
	}
	if o.Traceparent != "" {
		ctx = traceContext.Extract(ctx, propagation.MapCarrier{"traceparent": o.Traceparent})
	}
	id := newID()
	if len(o.Id) == len(id) {
		id = ID(o.Id)
	}
	r := &Request{SKU: o.Sku, Customer: string(o.Customer), Key: string(o.Key), Quantity: o.Quantity, PriceCents: o.PriceCents, Currency: o.Currency, id: id}
	t := newOrderTicket(ctx, r, lock.Token(o.Token))
	t.forwarded = &forwarded{from: from, number: o.Number, until: now.Add(time.Duration(o.LeftUs) * time.Microsecond)}
	return t
}
