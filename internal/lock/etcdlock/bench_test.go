package etcdlock

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"flashsale/internal/lock"
)

// BenchmarkHandover measures a hand-over: from just before Unlock until the waiter's
// Lock has returned. Two holders with separate clients take turns. It also reports the
// median of a put, the durable write that no lock can avoid.
//
//	go test ./internal/lock/etcdlock -run '^$' -bench Handover -benchtime 500x
func BenchmarkHandover(b *testing.B) {
	s := start(b, 1)
	b.Run("put", func(b *testing.B) {
		var puts []time.Duration
		for b.Loop() {
			puts = append(puts, s.put(b))
		}
		b.ReportMetric(milliseconds(median(puts)), "p50-ms")
	})
	for _, bench := range []struct {
		name string
		open func(string) (lock.Locker, func() error, error)
	}{
		{"etcd", backend.Open},
		{"textbook", textbook.Open},
		{"try", try.Open},
	} {
		b.Run(bench.name, func(b *testing.B) {
			pair := s.newPair(b, bench.open)
			var handovers, puts []time.Duration
			for b.Loop() {
				handovers = append(handovers, pair.handOver(b))
				puts = append(puts, s.put(b))
			}
			b.ReportMetric(milliseconds(median(handovers)), "p50-ms")
			b.ReportMetric(milliseconds(median(puts)), "put-p50-ms")
		})
	}
}

// BenchmarkAlternation measures a Lock and an Unlock while another holder waits.
func BenchmarkAlternation(b *testing.B) {
	s := start(b, 1)
	for _, bench := range []struct {
		name string
		open func(string) (lock.Locker, func() error, error)
	}{
		{"etcd", backend.Open},
		{"textbook", textbook.Open},
	} {
		b.Run(bench.name, func(b *testing.B) {
			pair := s.newPair(b, bench.open)
			if err := pair.held.Unlock(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			var group errgroup.Group
			for i, locker := range pair.lockers {
				group.Go(func() error {
					for range (b.N + i) / 2 {
						held, err := locker.Lock(b.Context(), pair.name)
						if err != nil {
							return err
						}
						if err := held.Unlock(b.Context()); err != nil {
							return err
						}
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkUncontended measures a Lock and an Unlock without contention.
func BenchmarkUncontended(b *testing.B) {
	s := start(b, 1)
	l := s.newLocker(b)
	for b.Loop() {
		held, err := l.Lock(b.Context(), "bench")
		if err != nil {
			b.Fatal(err)
		}
		if err := held.Unlock(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestHandOverTime logs what BenchmarkHandover measures, in a short run. It asserts
// nothing, because the figures depend on the machine.
func TestHandOverTime(t *testing.T) {
	s := start(t, 1)
	for name, open := range map[string]func(string) (lock.Locker, func() error, error){
		"etcd": backend.Open, "textbook": textbook.Open, "try": try.Open,
	} {
		pair := s.newPair(t, open)
		var handovers, puts []time.Duration
		for range 20 {
			handovers = append(handovers, pair.handOver(t))
			puts = append(puts, s.put(t))
		}
		t.Logf("%s: hand-over %.2f ms, put %.2f ms (medians)", name, milliseconds(median(handovers)), milliseconds(median(puts)))
	}
}

// pair is two Lockers. One of them holds the lock.
type pair struct {
	server  *server
	name    string
	lockers [2]lock.Locker
	holder  int
	held    lock.Held
}

func (s *server) newPair(tb testing.TB, open func(string) (lock.Locker, func() error, error)) *pair {
	tb.Helper()
	p := &pair{server: s, name: fmt.Sprintf("pair-%d", time.Now().UnixNano())}
	for i := range p.lockers {
		locker, closeClient, err := open(s.Address())
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := locker.Close(context.Background()); err != nil {
				tb.Error(err)
			}
			if err := closeClient(); err != nil {
				tb.Error(err)
			}
		})
		p.lockers[i] = locker
	}
	held, err := p.lockers[0].Lock(tb.Context(), p.name)
	if err != nil {
		tb.Fatal(err)
	}
	p.held = held
	return p
}

// handOver passes the lock to the other Locker, and returns the duration.
func (p *pair) handOver(tb testing.TB) time.Duration {
	tb.Helper()
	p.holder = 1 - p.holder
	granted := make(chan time.Time, 1)
	var next lock.Held
	var err error
	go func() {
		next, err = p.lockers[p.holder].Lock(tb.Context(), p.name)
		granted <- time.Now()
	}()
	if _, ok := p.lockers[0].(*Try); ok {
		time.Sleep(20 * time.Millisecond) // its waiter is not stored on the server
	} else {
		for len(p.server.Entries(tb, p.name)) < 2 {
			time.Sleep(time.Millisecond)
		}
	}
	began := time.Now()
	if err := p.held.Unlock(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	at := <-granted
	if err != nil {
		tb.Fatal(err)
	}
	p.held = next
	return at.Sub(began)
}

// put returns the duration of one durable write.
func (s *server) put(tb testing.TB) time.Duration {
	tb.Helper()
	began := time.Now()
	if _, err := s.client.Put(tb.Context(), "put", "", clientv3.WithLease(clientv3.NoLease)); err != nil {
		tb.Fatal(err)
	}
	return time.Since(began)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
