package mirror

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// Changed is never called, as after the death of the replica that committed.
func TestChangesOfADeadReplicaAreFound(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	a, b := s.start(silent), s.start(watchful)
	s.shows(a, "sku") // it existed before the replicas started
	s.add("sku", 3)
	s.put("another", 5)
	for _, r := range []*replica{a, b} {
		s.shows(r, "sku")
		s.shows(r, "another")
	}
}

// The test kills etcd, changes stock, and starts etcd again.
func TestMirrorSurvivesARestartOfEtcd(t *testing.T) {
	t.Parallel()
	node := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	s := newShop(t, node.EtcdEndpoints())
	s.put("sku", 0)
	s.put("gone", 1)
	a, b := s.start(), s.start()
	s.shows(a, "sku")
	s.shows(b, "gone")
	failures := count(a.metrics.failures)

	node.Etcd[0].Kill()
	s.add("sku", 2)
	left := s.sell("gone")
	began := time.Now()
	for range 10_000 {
		a.Changed("sku", 2)
		a.Changed("gone", left)
	}
	if took := time.Since(began); took > testPatience { // one call that waits for etcd takes as long
		t.Errorf("20000 changes took %s without etcd", took)
	}
	for _, r := range []*replica{a, b} {
		sandboxtest.Eventually(t, "the view to be not current", func() bool {
			_, listed := r.List("", 10)
			_, got := r.Get("sku")
			_, counted := r.Count()
			_, _, followed := r.Since(0)
			return !listed && !got && !counted && !followed
		})
	}
	sandboxtest.Eventually(t, "a failed write that is still pending", func() bool {
		return count(a.metrics.failures) > failures && count(a.metrics.pending) > 0
	})

	if err := node.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*replica{a, b} {
		s.shows(r, "sku")
		s.shows(r, "gone")
		sandboxtest.Eventually(t, "a complete list", func() bool { list, ok := r.List("", 10); return ok && len(list) == 2 })
	}
	sandboxtest.Eventually(t, "all entries to be written", func() bool { return count(a.metrics.pending) == 0 })
}

// The changes that one replica missed are compacted.
func TestCompactionWhileCutOff(t *testing.T) {
	t.Parallel()
	node := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	s := newShop(t, node.EtcdEndpoints())
	s.put("sku", 0)
	s.put("dropped", 1)
	link := sandboxtest.NewLink(t, node.Etcd[0].Endpoint[len("http://"):])
	near, far := s.start(), s.start(func(c *Config) { c.Client = newClient(t, []string{"http://" + link.Addr}) })
	s.shows(near, "sku")
	s.shows(far, "dropped")

	link.Cut()
	s.add("sku", 1)
	near.Changed("sku", 1)
	s.settledAt("sku")
	// Without the row no replica writes the entry again.
	if _, err := s.db.SQL.ExecContext(t.Context(), "DELETE FROM stock WHERE sku = 'dropped'"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.etcd.Delete(t.Context(), s.prefix+"dropped"); err != nil {
		t.Fatal(err)
	}
	answer, err := s.etcd.Put(t.Context(), "unrelated", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.etcd.Compact(t.Context(), answer.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "the view to be not current", func() bool { _, ok := far.Get("sku"); return !ok })
	link.Heal()
	s.shows(far, "sku")
	sandboxtest.Eventually(t, "the deletion of an entry to be seen", func() bool { _, ok := far.inView("dropped"); return !ok })
	if n := count(far.metrics.relists); n == 0 {
		t.Error("the watch was not opened again, so that the compaction was not tested")
	}
	far.Changed("sku", s.sell("sku"))
	s.shows(near, "sku")
}

// The connection stays open, and no message arrives.
func TestHungWatchMakesTheViewNotCurrent(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 1)
	link := sandboxtest.NewLink(t, servers.Etcd[0].Endpoint[len("http://"):])
	near, far := s.start(), s.start(func(c *Config) { c.Client = newClient(t, []string{"http://" + link.Addr}) })
	s.shows(near, "sku")
	s.shows(far, "sku")
	release := sync.OnceFunc(link.Hold())
	defer release()
	near.Changed("sku", s.sell("sku"))
	s.shows(near, "sku")
	sandboxtest.Eventually(t, "the view to be not current", func() bool { _, ok := far.Get("sku"); return !ok })
	release()
	s.shows(far, "sku")
}

// Nothing changes, and etcd still answers on the watch, although another watch of the
// same client waits for a future revision.
func TestEtcdAnswersAQuietWatch(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	client := newClient(t, s.ends)
	client.Watch(clientv3.WithRequireLeader(t.Context()), "another", clientv3.WithRev(1<<50))
	r := s.start(silent, func(c *Config) { c.Client = client })
	var heard time.Time
	answers, opened := 0, 0
	sandboxtest.Eventually(t, "three answers on one watch", func() bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		if n := count(r.metrics.relists); n != opened {
			opened, answers = n, 0
		}
		if r.heard.After(heard) {
			answers++
			heard = r.heard
		}
		return answers > 3 // the first is the watch's beginning
	})
}

// The test also shows that a new mirror fills itself from the database.
func TestListIsCompleteOrNone(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	const skus = 25
	var want []string
	for i := range skus {
		want = append(want, fmt.Sprintf("sku-%02d", i))
		s.put(want[i], int64(i))
	}
	arrived, free := make(chan struct{}, skus), make(chan struct{})
	r := s.start(func(c *Config) { c.beforePut = func() { arrived <- struct{}{}; <-free } })
	select {
	case <-arrived: // a comparison has found SKUs that the view lacks
	case <-time.After(testPatience):
		t.Fatal("nothing was written")
	}
	if list, ok := r.List("", 10); ok {
		t.Errorf("listed %v before anything was written", list)
	}
	if n, ok := r.Count(); ok {
		t.Errorf("counted %d before anything was written", n)
	}
	close(free)
	var all []Entry
	sandboxtest.Eventually(t, "the list", func() bool {
		first, ok := r.List("", 10)
		if ok && len(first) != 10 {
			t.Fatalf("a list of %d of %d SKUs", len(first), skus)
		}
		if !ok {
			return false
		}
		second, ok := r.List(first[9].SKU, 20)
		all = append(first, second...)
		return ok
	})
	var got []string
	for i, e := range all {
		got = append(got, e.SKU)
		if e.Available != int64(i) || e.Name != "A thing" || e.PriceCents != 999 || e.Currency != "EUR" {
			t.Errorf("entry %+v", e)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	sandboxtest.Eventually(t, "an empty list after the last SKU", func() bool {
		rest, ok := r.List("sku-24", 10)
		if len(rest) != 0 {
			t.Fatalf("the list after the last SKU has %v", rest)
		}
		return ok
	})
	if _, ok := r.Get("sku-xx"); ok {
		t.Error("a SKU that does not exist was found")
	}
}

// The mirror lists nothing until it is complete again.
func TestMirrorIsFilledAgainAfterItsKeysAreDeleted(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	const skus = 25
	for i := range skus {
		s.put(fmt.Sprintf("sku-%02d", i), 1)
	}
	r := s.start()
	sandboxtest.Eventually(t, "the list", func() bool { list, ok := r.List("", skus); return ok && len(list) == skus })
	removed := func() int { r.mu.RLock(); defer r.mu.RUnlock(); return r.removed }
	before := removed()
	if _, err := s.etcd.Delete(t.Context(), s.prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Eventually(t, "a complete list again", func() bool {
		lost := removed() > before
		list, ok := r.List("", skus)
		if ok && len(list) != skus {
			t.Fatalf("a list of %d of %d SKUs", len(list), skus)
		}
		return lost && ok
	})
}

// The database was restored, or created again under its old name: the entries are newer
// than MySQL.
func TestEntriesNewerThanARestoredDatabaseAreDeleted(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 3)
	for sku, seq := range map[string]int{"sku": 100, "deleted": 7} {
		text := fmt.Sprintf(`{"sku":%q,"available":0,"seq":%d}`, sku, seq)
		if _, err := s.etcd.Put(t.Context(), s.prefix+sku, text); err != nil {
			t.Fatal(err)
		}
	}
	r := s.start(watchful)
	sandboxtest.Eventually(t, "the mirror to equal MySQL", func() bool {
		_, found := r.inView("deleted")
		e, _ := r.inView("sku")
		return !found && e.Available == 3 && e.Seq == 0
	})
}

// One comparison finds the entry newer than MySQL, as when a node of the database lags.
func TestLaggingRowDeletesNoEntry(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 3)
	if _, err := s.etcd.Put(t.Context(), s.prefix+"sku", `{"sku":"sku","available":2,"seq":1}`); err != nil {
		t.Fatal(err)
	}
	r := s.start()
	sandboxtest.Eventually(t, "a comparison", func() bool { _, ok := r.Count(); return ok })
	if e, version := s.stored("sku"); e.Seq != 1 || version != 1 {
		t.Errorf("version %d of the key is %+v, want it unchanged", version, e)
	}
}
