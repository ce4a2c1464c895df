package mysqllock

import (
	"context"
	"slices"
	"testing"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
)

// BenchmarkHandover measures the time from one holder to the next: from just before Unlock
// until the waiter's Lock has returned. Two holders with separate connections take turns.
// Waiters of lock-table poll, so they are late by the rest of their pause.
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

// BenchmarkUncontended measures Lock and Unlock without waiters.
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
	waits   bool // the server shows waiters
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

// handOver passes the lock to the other Locker, and returns how long that took.
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
		for len(p.server.Entries(b, benchName)) < 2 {
			time.Sleep(time.Millisecond)
		}
	} else {
		time.Sleep(20 * time.Millisecond) // no event shows that it has asked
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
