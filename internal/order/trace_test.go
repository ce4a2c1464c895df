package order_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"flashsale/internal/order"
	"flashsale/internal/stock"
)

// Half of the concurrent buyers at two replicas are traced. Each wait at a desk ends, and
// exactly the traced orders that were made are linked with a commit.
func TestOnlyTracedOrdersHaveSpans(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	dsn := newDSN(t, stock.Stock{Units: 150})
	services := []*order.Service{
		startReplica(t, options{dsn: dsn, strategy: "etcd", traces: provider}),
		startReplica(t, options{dsn: dsn, strategy: "etcd", traces: provider}),
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	made, requests := map[trace.SpanID]bool{}, map[trace.SpanID]bool{}
	for i := range 200 {
		group.Go(func() {
			ctx := t.Context()
			if i%2 == 0 {
				var span trace.Span
				ctx, span = provider.Tracer("test").Start(ctx, "request")
				defer span.End()
			}
			_, err := services[i%4/2].Place(ctx, buy(fmt.Sprint("customer-", i), "k", 1))
			mu.Lock()
			defer mu.Unlock()
			id := trace.SpanContextFromContext(ctx).SpanID()
			requests[id], made[id] = true, err == nil && i%2 == 0
		})
	}
	group.Wait()
	// The desk's own spans may end a moment after the answers.
	for deadline := time.Now().Add(testTimeout); len(spans.Started()) != len(spans.Ended()) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	// A forwarded order has a span for that between its request and the seller's spans.
	forwards := map[trace.SpanID]trace.SpanID{}
	for _, s := range spans.Ended() {
		if s.Name() == "forward" {
			forwards[s.SpanContext().SpanID()] = s.Parent().SpanID()
		}
	}
	requestOf := func(id trace.SpanID) trace.SpanID {
		if request, forwarded := forwards[id]; forwarded {
			return request
		}
		return id
	}
	linked := map[trace.SpanID]bool{}
	waits := 0
	for _, s := range spans.Ended() {
		switch s.Name() {
		case "commit":
			for _, link := range s.Links() {
				linked[requestOf(link.SpanContext.SpanID())] = true
			}
		case "desk wait":
			waits++
		case "lock wait", "claim", "forward":
		default:
			continue
		}
		if !requests[requestOf(s.Parent().SpanID())] {
			t.Errorf("span %s does not belong to a request", s.Name())
		}
	}
	for id, stands := range made {
		if id.IsValid() && stands != linked[id] {
			t.Errorf("order made: %v, but linked with a commit: %v", stands, linked[id])
		}
	}
	if got, want := len(spans.Started()), len(spans.Ended()); got != want {
		t.Errorf("%d spans started, %d ended", got, want)
	}
	if waits < 100 {
		t.Errorf("%d waits at desks, want one for each of 100 traced orders", waits)
	}
}
