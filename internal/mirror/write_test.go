package mirror

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestTheLaterReadWins is the lost update: one replica reads the database, and
// is held up; another reads what was committed since, and writes it; then the
// first one writes.
func TestTheLaterReadWins(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 2*tries)
	arrived, release := make(chan struct{}), make(chan struct{})
	var hold atomic.Bool
	slow := s.start(silent, func(c *Config) {
		c.at = func(at step, _ []string) {
			if at == beforePut && hold.CompareAndSwap(true, false) {
				arrived <- struct{}{}
				<-release
			}
		}
	})
	quick := s.start(silent)
	quick.Changed("sku", 2)
	eventually(t, "the entry in both views", func() bool {
		_, a := slow.inView("sku")
		_, b := quick.inView("sku")
		return a && b
	})
	try := 0
	measured(t, func() error { // a write that is held up for longer than writeTimeout is none
		try++
		failures, races := count(slow.cfg.Metrics.Failures), count(slow.cfg.Metrics.LostRaces)
		hold.Store(true)
		slow.Changed("sku", s.sell("sku", "c", fmt.Sprint(try)))
		<-arrived // with this seq in hand
		quick.Changed("sku", s.sell("sku", "another", fmt.Sprint(try)))
		s.settledAt("sku")
		release <- struct{}{}
		eventually(t, "the held up write", func() bool {
			return count(slow.cfg.Metrics.LostRaces) > races || count(slow.cfg.Metrics.Failures) > failures
		})
		if seqs := s.history("sku"); !slices.IsSorted(seqs) {
			t.Errorf("the mirror went back: the entries in etcd had the seqs %d", seqs)
		}
		if n := count(slow.cfg.Metrics.LostRaces) - races; n != 1 {
			return fmt.Errorf("%d races were counted as lost, want 1", n)
		}
		return nil
	})
}

// TestEtcdEndsAsMySQL lets three replicas write at the same time what anybody has
// committed: each SKU's history rises, and ends with what MySQL has.
func TestEtcdEndsAsMySQL(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	replicas := []*replica{s.start(silent), s.start(silent), s.start(silent)}
	const skus, changes = 5, 150
	name := func(i int) string { return fmt.Sprintf("sku-%d", i) }
	for i := range skus {
		s.put(name(i), 1)
	}
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(func() {
			for range changes {
				sku := name(rand.IntN(skus))
				s.add(sku, rand.IntN(3)-1)
				r.Changed(sku, s.row(sku).Available)
			}
		})
	}
	all.Wait()
	races := 0
	for i := range skus {
		s.settledAt(name(i))
		if seqs := s.history(name(i)); !slices.IsSorted(seqs) {
			t.Errorf("%s went back: %d", name(i), seqs)
		}
	}
	for _, r := range replicas {
		races += count(r.cfg.Metrics.LostRaces)
	}
	t.Logf("%d races were lost", races)
	for _, r := range replicas {
		for i := range skus {
			want := s.row(name(i))
			eventually(t, "the same in every view", func() bool {
				e, _ := r.inView(name(i))
				return e.Seq == want.Seq && e.Available == want.Available
			})
		}
	}
}

func TestTheViewNeverGoesBack(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 5)
	s.add("sku", 1)
	s.add("sku", 1)
	r := s.start(silent)
	r.Changed("sku", 7)
	s.settledAt("sku")
	eventually(t, "the view", func() bool { _, ok := r.inView("sku"); return ok })
	for _, foreign := range []string{`{"sku":"sku","available":5,"seq":1}`, `not JSON`, `{"sku":"other","seq":9}`} {
		next := r.Next()
		if _, err := s.etcd.Put(t.Context(), s.prefix+"sku", foreign); err != nil {
			t.Fatal(err)
		}
		<-next
		if e, _ := r.inView("sku"); e.Seq != 2 || e.Available != 7 {
			t.Errorf("after %s the view has %+v", foreign, e)
		}
		eventually(t, "etcd to be put right", func() bool {
			answer, err := s.etcd.Get(t.Context(), s.prefix+"sku")
			return err == nil && string(answer.Kvs[0].Value) != foreign
		})
		if e, _ := s.stored("sku"); e.Seq != 2 || e.Available != 7 {
			t.Errorf("etcd was put to %+v", e)
		}
	}
	if _, err := s.etcd.Delete(t.Context(), s.prefix+"sku"); err != nil {
		t.Fatal(err)
	}
	s.settledAt("sku")
}

// TestWritesAreFew keeps changing one SKU, and then many.
func TestWritesAreFew(t *testing.T) {
	s := newShop(t, servers.EtcdEndpoints())
	r, other := s.start(silent), s.start(silent)
	const skus, lasts = 300, 2 * time.Second
	name := func(i int) string { return fmt.Sprintf("sku-%03d", i) }
	for i := range skus {
		s.put(name(i), 1_000_000)
		r.Changed(name(i), 1_000_000)
	}
	for i := range skus {
		s.settledAt(name(i))
	}
	t.Run("one SKU on two replicas", func(t *testing.T) {
		measured(t, func() error {
			_, before := s.stored(name(0))
			began := time.Now()
			for time.Since(began) < lasts {
				s.add(name(0), 1)
				r.Changed(name(0), 1_000_000)
				other.Changed(name(0), 1_000_000)
			}
			s.settledAt(name(0))
			_, after := s.stored(name(0))
			rate := float64(after-before) / time.Since(began).Seconds()
			t.Logf("%.1f writes a second", rate)
			if rate > 20 {
				t.Errorf("%.1f writes a second, want at most 20", rate)
			}
			if rate < 5 {
				return fmt.Errorf("%.1f writes a second, want some", rate)
			}
			return nil
		})
	})
	t.Run("all SKUs, and one sells out", func(t *testing.T) {
		measured(t, func() error { return s.sellAll(lasts, r, other, skus, name) })
	})
}

// sellAll changes all SKUs again and again for so long. One of them sells out in
// between, and must not wait behind the others.
func (s *shop) sellAll(lasts time.Duration, r, other *replica, skus int, name func(int) string) error {
	s.t.Helper()
	exec := func(query string, args ...any) {
		s.t.Helper()
		if _, err := s.db.SQL.ExecContext(s.t.Context(), query, args...); err != nil {
			s.t.Fatal(err)
		}
	}
	const crossingAt = 5
	last := name(skus - 1)
	writes, txns := count(r.cfg.Metrics.Writes), count(r.cfg.Metrics.Transactions)
	began := time.Now()
	soldOut := time.Duration(-1)
	for i := 1; i <= crossingAt || time.Since(began) < lasts; i++ {
		exec("UPDATE stock SET available = available - 1, seq = seq + 1")
		for i := range skus {
			r.Changed(name(i), 1000)
		}
		if i == crossingAt {
			exec("UPDATE stock SET available = 0, seq = seq + 1 WHERE sku = ?", last)
			r.Changed(last, 0)
			soldOut = eventually(s.t, "the crossing", func() bool { e, _ := other.inView(last); return e.Available == 0 })
			exec("UPDATE stock SET available = 1000000, seq = seq + 1 WHERE sku = ?", last)
		}
	}
	took := time.Since(began).Seconds()
	writes, txns = count(r.cfg.Metrics.Writes)-writes, count(r.cfg.Metrics.Transactions)-txns
	s.t.Logf("%.0f entries and %.0f transactions a second; the crossing was elsewhere after %s",
		float64(writes)/took, float64(txns)/took, soldOut.Round(time.Millisecond))
	// Both ends of the time may have a batch.
	if float64(writes) > 200*took+batchSize {
		s.t.Errorf("%.0f entries a second, want at most 200", float64(writes)/took)
	}
	switch {
	case float64(writes) < 50*took:
		return fmt.Errorf("%.0f entries a second, want many", float64(writes)/took)
	case txns*4 > writes:
		return fmt.Errorf("%d transactions for %d entries, want several in each", txns, writes)
	case soldOut > time.Second:
		return fmt.Errorf("the crossing waited for %s behind others", soldOut)
	}
	return nil
}

// TestChangesOfManySKUsAtOnce needs transactions of the greatest size.
func TestChangesOfManySKUsAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	r := s.start(silent)
	eventually(t, "the view", func() bool { r.mu.RLock(); defer r.mu.RUnlock(); return r.synced })
	const skus = 3 * txnSize
	for i := range skus {
		s.put(fmt.Sprint(i), 1)
	}
	unlock := s.lock() // the first one is held up until the others are marked
	for i := range skus {
		r.Changed(fmt.Sprint(i), 1)
	}
	unlock()
	eventually(t, "all entries", func() bool {
		answer, err := s.etcd.Get(t.Context(), s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && answer.Count == skus
	})
	if n := count(r.cfg.Metrics.Transactions); n > 2*skus/txnSize+2 {
		t.Errorf("%d transactions for %d new SKUs", n, skus)
	}
}

// TestWhoeverFollowsTheViewMissesNoLastChange follows by Next and Since, as
// streams of events do, while two replicas sell.
func TestWhoeverFollowsTheViewMissesNoLastChange(t *testing.T) {
	s := newShop(t, servers.EtcdEndpoints())
	here, there := s.start(), s.start()
	const skus, sales = 20, 15
	for i := range skus {
		s.put(fmt.Sprintf("sku%02d", i), sales)
	}
	soldOut := make(chan string, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*testPatience)
	defer cancel()
	go func() { soldOut <- followToTheEnd(ctx, here, skus) }()
	for i := range skus * sales {
		sku, seller := fmt.Sprintf("sku%02d", i%skus), []*replica{here, there}[i/skus%2]
		seller.Changed(sku, s.sell(sku, "buyer", fmt.Sprint(i)))
	}
	if problem := <-soldOut; problem != "" {
		t.Error(problem)
	}
}

// followToTheEnd returns when so many SKUs are seen, and all of them sold out, or
// what is wrong.
func followToTheEnd(ctx context.Context, r *replica, skus int) string {
	seen := map[string]Entry{}
	for revision := int64(0); ; {
		next := r.Next()
		changed, now, ok := r.Since(revision)
		if ok {
			revision = now
		}
		for _, e := range changed {
			if e.Seq < seen[e.SKU].Seq {
				return fmt.Sprintf("%s went back from seq %d to %d", e.SKU, seen[e.SKU].Seq, e.Seq)
			}
			seen[e.SKU] = e
		}
		left := int64(0)
		for _, e := range seen {
			left += e.Available
		}
		if left == 0 && len(seen) == skus {
			return ""
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Sprintf("%d units of %d SKUs are seen in the end; in MySQL there are none of %d", left, len(seen), skus)
		}
	}
}
