package mirror

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sandbox/sandboxtest"
)

// TestTheLaterReadWins is the lost update: one replica reads the database, and
// is held up; another reads what was committed since, and writes it; then the
// first one writes.
func TestTheLaterReadWins(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 2)
	arrived, release := make(chan struct{}), make(chan struct{})
	var hold atomic.Bool
	slow := s.start(silent, func(c *Config) {
		c.beforePut = func() {
			if hold.CompareAndSwap(true, false) {
				arrived <- struct{}{}
				<-release
			}
		}
	})
	quick := s.start(silent)
	quick.Changed("sku", 2)
	s.shows(slow, "sku")
	s.shows(quick, "sku")
	hold.Store(true)
	slow.Changed("sku", s.sell("sku"))
	<-arrived // with this seq in hand
	quick.Changed("sku", s.sell("sku"))
	s.settledAt("sku")
	release <- struct{}{}
	// A write that was held up for longer than writeTimeout is not sent.
	sandboxtest.Eventually(t, "the held up write", func() bool {
		return count(slow.cfg.Metrics.LostRaces)+count(slow.cfg.Metrics.Failures) > 0
	})
	sandboxtest.Eventually(t, "the end of what is to be written", func() bool { return pending(slow) == 0 })
	if seqs := s.history("sku"); !slices.IsSorted(seqs) {
		t.Errorf("the mirror went back: the entries in etcd had the seqs %d", seqs)
	}
	if e, _ := s.stored("sku"); e.Available != 0 {
		t.Errorf("etcd has %+v, want what MySQL has", e)
	}
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
			sandboxtest.Eventually(t, "the same in every view", func() bool {
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
	s.shows(r, "sku")
	for _, foreign := range []string{`{"sku":"sku","available":5,"seq":1}`, `not JSON`, `{"sku":"other","seq":9}`} {
		next := r.Next()
		if _, err := s.etcd.Put(t.Context(), s.prefix+"sku", foreign); err != nil {
			t.Fatal(err)
		}
		<-next
		if e, _ := r.inView("sku"); e.Seq != 2 || e.Available != 7 {
			t.Errorf("after %s the view has %+v", foreign, e)
		}
		sandboxtest.Eventually(t, "etcd to be put right", func() bool {
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
	sandboxtest.Eventually(t, "the entry again", func() bool { e, _ := s.stored("sku"); return e.Available == 7 })
}

// TestWritesAreFew keeps changing one SKU on two replicas.
func TestWritesAreFew(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	a, b := s.start(silent), s.start(silent)
	s.put("sku", 1_000_000)
	a.Changed("sku", 1_000_000)
	s.shows(a, "sku")
	s.shows(b, "sku")
	const changes = 1000
	_, before := s.stored("sku")
	began := time.Now()
	for range changes {
		left := s.sell("sku")
		a.Changed("sku", left)
		b.Changed("sku", left)
	}
	s.settledAt("sku")
	took := time.Since(began)
	_, after := s.stored("sku")
	t.Logf("%d writes in %s", after-before, took.Round(time.Millisecond))
	if most := 1 + int64(took/spacing); after-before > most {
		t.Errorf("%d writes of %d changes in %s, want one in %s: %d at most", after-before, changes, took, spacing, most)
	}
}

// TestACrossingIsShownBeforeOthers: units of many SKUs went down, and then one of
// them is sold out.
func TestACrossingIsShownBeforeOthers(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	r := s.start(silent)
	const skus = 10 * batchSize
	name := func(i int) string { return fmt.Sprintf("sku-%03d", i) }
	for i := range skus {
		s.put(name(i), 1000)
		r.Changed(name(i), 1000)
	}
	for i := range skus {
		s.shows(r, name(i))
	}
	listed := func() (answer *clientv3.GetResponse) {
		answer, err := s.etcd.Get(t.Context(), s.prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	before := listed().Header.Revision

	for range 2 {
		s.exec("UPDATE stock SET available = available - 1, seq = seq + 1")
		for i := range skus {
			r.Changed(name(i), 998)
		}
	}
	s.exec("UPDATE stock SET available = 0, seq = seq + 1 WHERE sku = ?", name(skus-1))
	r.Changed(name(skus-1), 0)
	for i := range skus {
		s.settledAt(name(i))
	}
	transactions := map[int64]int{} // how many entries each wrote, by its revision
	var crossing int64
	for _, kv := range listed().Kvs {
		if kv.ModRevision <= before {
			t.Fatalf("%s was not written", kv.Key)
		}
		transactions[kv.ModRevision]++
		crossing = kv.ModRevision // of the last SKU
	}
	earlier := 0
	for revision, n := range transactions {
		if revision < crossing {
			earlier += n
		}
		if n > batchSize+1 {
			t.Errorf("%d entries were written at once, want %d at most and the crossing", n, batchSize)
		}
	}
	t.Logf("%d transactions for %d entries; %d entries were before the crossing", len(transactions), skus, earlier)
	if earlier > skus/2 {
		t.Errorf("%d of %d entries were written before the crossing, want that it does not wait for them", earlier, skus)
	}
	if len(transactions) > skus/4 {
		t.Errorf("%d transactions for %d entries, want several in each", len(transactions), skus)
	}
}

// TestChangesOfManySKUsAtOnce needs transactions of the greatest size.
func TestChangesOfManySKUsAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	r := s.start(silent)
	sandboxtest.Eventually(t, "the view", func() bool { r.mu.RLock(); defer r.mu.RUnlock(); return r.synced })
	const skus = 3 * txnSize
	for i := range skus {
		s.put(fmt.Sprint(i), 1)
	}
	unlock := s.lock() // the first one is held up until the others are marked
	for i := range skus {
		r.Changed(fmt.Sprint(i), 1)
	}
	unlock()
	sandboxtest.Eventually(t, "all entries", func() bool {
		answer, err := s.etcd.Get(t.Context(), s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && answer.Count == skus
	})
	if n := count(r.cfg.Metrics.Transactions); n > 2*skus/txnSize+2 {
		t.Errorf("%d transactions for %d new SKUs", n, skus)
	}
}
