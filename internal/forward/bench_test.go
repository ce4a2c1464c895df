package forward

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/forward/wire"
)

// BenchmarkForward sends orders over loopback, in waves that are written in one
// message each, and answers them in waves. Both processes are this one: cpu-us/order
// is what an order costs in both together, both ways, with TLS.
func BenchmarkForward(b *testing.B) {
	for _, batch := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) { benchForward(b, batch) })
	}
}

func benchForward(b *testing.B, batch int) {
	seller := serve(b, config("seller"), receiverFunc(func(from *Source, orders []*Order) {
		for _, o := range orders {
			from.Answer(&Answer{
				Number: o.Number, Outcome: wire.Outcome_PLACED, Id: make([]byte, 16), Quantity: 1, PriceCents: 999, Currency: "EUR",
				Fence: 12345, Seq: 678910, CreatedUs: 1764000000000000, ExpiresUs: 1764000900000000,
			})
		}
	}))
	links := newLinks(b, config("buyer"))
	orders := make([]*Order, batch)
	for i := range orders {
		orders[i] = &Order{
			Sku: "sneaker-42", Token: 12345, Customer: []byte("customer-1234567"), Key: []byte("b7a1c0de-1f2e-4d3c-8b4a-5d6e7f809102"),
			Quantity: 1, Currency: "EUR", LeftUs: 5_000_000, RequestId: "0198f2b4c6d87e3f9a1b2c3d4e5f6071",
		}
	}
	var wave sync.WaitGroup
	done := func(_ *Answer, err error) {
		if err != nil {
			b.Error(err)
		}
		wave.Done()
	}
	send := func() {
		wave.Add(batch)
		for _, o := range orders {
			if err := links.Send(seller.peer, o, done); err != nil {
				b.Fatal(err)
			}
		}
		wave.Wait()
	}
	send() // opens the link
	b.ReportAllocs()
	cpu := used()
	for b.Loop() {
		send()
	}
	b.ReportMetric(float64(used()-cpu)/float64(b.N*batch)/1e3, "cpu-us/order")
	b.ReportMetric(value(b, links.metrics.orders)/value(b, links.metrics.messages), "orders/message")
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "orders/s")
}

// used is the processor time of this process.
func used() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
