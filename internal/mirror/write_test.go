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

// The test tries a lost update: one replica reads the database and is delayed; another
// reads a later row and writes it; then the first replica writes.
func TestLaterReadWins(t *testing.T) {
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
	sandboxtest.Await(t, arrived, "the slow write") // it has read this seq
	quick.Changed("sku", s.sell("sku"))
	s.settledAt("sku")
	release <- struct{}{}
	// A write that was delayed for longer than writeTimeout is not sent.
	sandboxtest.Eventually(t, "the delayed write", func() bool {
		return count(slow.metrics.lostRaces)+count(slow.metrics.failures) > 0
	})
	sandboxtest.Eventually(t, "all entries to be written", func() bool { return count(slow.metrics.pending) == 0 })
	if seqs := s.history("sku"); !slices.IsSorted(seqs) {
		t.Errorf("the mirror went back: the entries in etcd have the seqs %d", seqs)
	}
	if e, _ := s.stored("sku"); e.Available != 0 {
		t.Errorf("etcd has %+v, want the row of MySQL", e)
	}
}

// Three replicas write each other's commits at the same time: the seqs of each SKU rise
// and end at MySQL's.
func TestEtcdEndsEqualToMySQL(t *testing.T) {
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
			t.Errorf("%s went back: its entries have the seqs %d", name(i), seqs)
		}
	}
	for _, r := range replicas {
		races += count(r.metrics.lostRaces)
	}
	t.Logf("%d races were lost", races)
	for _, r := range replicas {
		for i := range skus {
			want := s.row(name(i))
			sandboxtest.Eventually(t, "every view to equal MySQL", func() bool {
				e, _ := r.inView(name(i))
				return e.Seq == want.Seq && e.Available == want.Available
			})
		}
	}
}

func TestViewNeverGoesBack(t *testing.T) {
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
		sandboxtest.Await(t, next, "a change of the view")
		if e, _ := r.inView("sku"); e.Seq != 2 || e.Available != 7 {
			t.Errorf("after %s the view has %+v", foreign, e)
		}
		sandboxtest.Eventually(t, "the entry to be replaced", func() bool {
			answer, err := s.etcd.Get(t.Context(), s.prefix+"sku")
			return err == nil && string(answer.Kvs[0].Value) != foreign
		})
		if e, _ := s.stored("sku"); e.Seq != 2 || e.Available != 7 {
			t.Errorf("etcd has %+v, want the row of MySQL", e)
		}
	}
	if _, err := s.etcd.Delete(t.Context(), s.prefix+"sku"); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "the entry to be written again", func() bool { e, _ := s.stored("sku"); return e.Available == 7 })
}

// Two replicas keep changing one SKU.
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
		t.Errorf("%d writes of %d changes in %s, want at most one in %s, which is %d", after-before, changes, took, spacing, most)
	}
}

// Units of many SKUs are sold, and then one SKU is sold out.
func TestSellingOutIsWrittenBeforeOtherChanges(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	// A slow update must not let the writer run ahead of the changes.
	var hold atomic.Bool
	marked := make(chan struct{})
	release := sync.OnceFunc(func() { close(marked) })
	r := s.start(silent, func(c *Config) {
		c.beforePut = func() {
			if hold.Load() {
				<-marked
			}
		}
	})
	t.Cleanup(release) // before the replica's end, which waits for its writer
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

	hold.Store(true)
	for range 2 {
		s.exec("UPDATE stock SET available = available - 1, seq = seq + 1")
		for i := range skus {
			r.Changed(name(i), 998)
		}
	}
	s.exec("UPDATE stock SET available = 0, seq = seq + 1 WHERE sku = ?", name(skus-1))
	r.Changed(name(skus-1), 0)
	release()
	for i := range skus {
		s.settledAt(name(i))
	}
	transactions := map[int64]int{} // the number of entries of each, by revision
	var soldOut int64
	for _, kv := range listed().Kvs {
		if kv.ModRevision <= before {
			t.Fatalf("%s was not written", kv.Key)
		}
		transactions[kv.ModRevision]++
		soldOut = kv.ModRevision // the last SKU is the one that is sold out
	}
	earlier := 0
	for revision, n := range transactions {
		if revision < soldOut {
			earlier += n
		}
		if n > batchSize+1 {
			t.Errorf("%d entries were written at once, want at most %d and the one that is sold out", n, batchSize)
		}
	}
	t.Logf("%d transactions for %d entries; %d entries came before the one that is sold out", len(transactions), skus, earlier)
	if earlier > skus/2 {
		t.Errorf("%d of %d entries were written before the one that is sold out, want at most half", earlier, skus)
	}
	if len(transactions) > skus/4 {
		t.Errorf("%d transactions for %d entries, want several entries in each", len(transactions), skus)
	}
}

// The changes fill transactions of the largest size.
func TestChangesOfManySKUsAtOnce(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	r := s.start(silent)
	sandboxtest.Eventually(t, "the view to be synced", func() bool { r.mu.RLock(); defer r.mu.RUnlock(); return r.synced })
	const skus = 3 * txnSize
	for i := range skus {
		s.put(fmt.Sprint(i), 1)
	}
	unlock := s.lock() // delays the first write until the others are marked
	for i := range skus {
		r.Changed(fmt.Sprint(i), 1)
	}
	unlock()
	sandboxtest.Eventually(t, "all entries", func() bool {
		answer, err := s.etcd.Get(t.Context(), s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && answer.Count == skus
	})
	if n := count(r.metrics.transactions); n > 2*skus/txnSize+2 {
		t.Errorf("%d transactions for %d new SKUs", n, skus)
	}
}
