package order_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"flashsale/internal/order"
	"flashsale/internal/record"
	"flashsale/internal/stock"
)

// newSteps records the steps of replicas of a test.
func newSteps(tb testing.TB) *record.Recorder {
	tb.Helper()
	steps, err := record.Open(filepath.Join(tb.TempDir(), "steps"), record.Step{Replica: "a"}, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		if err := steps.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	return steps
}

// BenchmarkSteps measures what step records cost: the calls that one order makes (steps),
// and its whole path without HTTP at one replica with 512 buyers (place).
func BenchmarkSteps(b *testing.B) {
	for _, on := range []bool{false, true} {
		recorder := func(b *testing.B) *record.Recorder {
			if !on {
				return nil
			}
			return newSteps(b)
		}
		name := map[bool]string{false: "off", true: "on"}[on]
		b.Run("steps/"+name, func(b *testing.B) {
			note := order.NoteOrder(recorder(b))
			b.ReportAllocs()
			for b.Loop() {
				note()
			}
		})
		b.Run("place/"+name, func(b *testing.B) {
			const buyers = 512
			service := startReplica(b, options{dsn: newDSN(b, stock.Stock{Units: 1 << 30}), strategy: "etcd", steps: recorder(b)})
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for range buyers {
				group.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						if _, err := service.Place(b.Context(), buy(fmt.Sprint("customer-", i), "k", 1)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
		})
	}
}

func TestStepsAllocateNothingWhenOff(t *testing.T) {
	if n := testing.AllocsPerRun(100, order.NoteOrder(nil)); n != 0 {
		t.Errorf("%v allocations for an order, want 0", n)
	}
}
