package mysqllock

import (
	"context"
	"slices"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures how long a lock takes from one holder to the next:
// from just before Unlock until the waiter's Lock has returned, with two holders
// in turns, each with connections of its own. lock-table's waiters are told of
// nothing, and are late by what is left of their pause.
//
//	go test ./internal/lock/mysqllock -run '^$' -bench Handover -benchtime 100x
func BenchmarkHandover(b *testing.B) {
	for _, backend := range []locktest.Backend{tableBackend, rowBackend, getLockBackend} {
		b.Run(backend.Name, func(b *testing.B) {
			p := newPair(b, backend)
			var all []time.Duration
			for b.Loop() {
				all = append(all, p.handOver(b))
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2])/float64(time.Millisecond), "p50-ms")
			if err := p.held.Unlock(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkUncontended is Lock and Unlock with nobody else about.
func BenchmarkUncontended(b *testing.B) {
	for _, backend := range []locktest.Backend{tableBackend, rowBackend, getLockBackend} {
		b.Run(backend.Name, func(b *testing.B) {
			p := newPair(b, backend)
			for b.Loop() {
				if err := p.held.Unlock(b.Context()); err != nil {
					b.Fatal(err)
				}
				p.lock(b, 0)
			}
		})
	}
}

// pair is two Lockers of which one holds the lock.
type pair struct {
	server  locktest.Server
	lockers [2]lock.Locker
	waits   bool // a waiter can be seen on the server
	holder  int
	held    lock.Held
}

const benchName = "bench"

func newPair(b *testing.B, backend locktest.Backend) *pair {
	b.Helper()
	p := &pair{server: backend.Start(b), waits: backend.Capabilities.Queue}
	for i := range p.lockers {
		l, _, err := backend.Open(p.server.Address())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := l.Close(context.Background()); err != nil {
				b.Error(err)
			}
		})
		p.lockers[i] = l
	}
	p.lock(b, 0)
	return p
}

func (p *pair) lock(b *testing.B, i int) {
	b.Helper()
	held, err := p.lockers[i].Lock(b.Context(), benchName)
	if err != nil {
		b.Fatal(err)
	}
	p.holder, p.held = i, held
}

// handOver lets the other one have the lock, and returns how long that took.
func (p *pair) handOver(b *testing.B) time.Duration {
	b.Helper()
	before := p.held
	granted := make(chan time.Time, 1)
	var next lock.Held
	var err error
	other := 1 - p.holder
	go func() {
		next, err = p.lockers[other].Lock(b.Context(), benchName)
		granted <- time.Now()
	}()
	if p.waits {
		for len(p.server.Places(b, benchName)) < 2 {
			time.Sleep(time.Millisecond)
		}
	} else {
		time.Sleep(20 * time.Millisecond) // no event tells that it has asked
	}
	began := time.Now()
	if err := before.Unlock(b.Context()); err != nil {
		b.Fatal(err)
	}
	at := <-granted
	if err != nil {
		b.Fatal(err)
	}
	p.holder, p.held = other, next
	return at.Sub(began)
}
