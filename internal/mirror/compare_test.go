package mirror

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// TestADeadReplicasRestockIsFound: nobody tells the mirror of the restock.
func TestADeadReplicasRestockIsFound(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	s.put("on sale", 5)
	a, b := s.start(), s.start() // they find the SKUs, too
	refusing(t, "sku", a, b)
	s.add("sku", 3)
	refusedUntilOld(t, "sku", time.Now(), a, b)
	s.shows(a, "sku")
	s.shows(b, "sku")
}

// refusedUntilOld waits until the replicas do not refuse orders for the SKU. What
// they know is from before that time, and they may refuse by it for maxAge. Only
// refusals that were asked for later than that count against them: how long this
// waits for the processor does not matter.
func refusedUntilOld(t *testing.T, sku string, known time.Time, replicas ...*replica) {
	t.Helper()
	var last time.Duration
	for _, r := range replicas {
		eventually(t, "the refusals' end", func() bool {
			asked := time.Since(known)
			refused := r.refuses(sku)
			if refused {
				last = max(last, asked)
			}
			return !refused
		})
	}
	t.Logf("the last refusal was %s after what it is by", last.Round(time.Millisecond))
	if last > maxAge {
		t.Errorf("refused for %s by what had changed, want %s at most", last, maxAge)
	}
}

// TestAnotherTakesOverComparing ends the comparer as a crash does.
func TestAnotherTakesOverComparing(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	a, b := s.start(), s.start()
	refusing(t, "sku", a, b)
	comparer := func(r *replica) string { r.mu.RLock(); defer r.mu.RUnlock(); return r.record.By }
	first, second := a, b
	if comparer(b) == b.id {
		first, second = b, a
	}
	first.stop()
	stopped := time.Now()
	eventually(t, "another comparer", func() bool { return comparer(second) == second.id })
	refusing(t, "sku", second)
	t.Logf("the next one compares after %s", time.Since(stopped).Round(time.Millisecond))
	if first.refuses("sku") {
		t.Error("a mirror that has ended refuses")
	}
}

// TestOneCompares: many replicas cost MySQL no more than one.
func TestOneCompares(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	var replicas []*replica
	for range 5 {
		replicas = append(replicas, s.start())
	}
	refusing(t, "sku", replicas...)
	const records = 8
	measured(t, func() error {
		began := time.Now()
		by := s.comparers(records)
		// One may have been too slow: another has taken its place.
		if took := time.Since(began); took < (records-1)*compareEvery || len(by) > 2 {
			return fmt.Errorf("%d records in %s, by %v; want one comparer, every %s", records, took, by, compareEvery)
		}
		return nil
	})
}

// comparers waits for so many records, and says how many each has written.
func (s *shop) comparers(records int) (by map[string]int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), testPatience)
	defer cancel()
	by = map[string]int{}
	n := 0
	for r := range s.etcd.Watch(ctx, s.prefix+recordName) {
		for _, event := range r.Events {
			var rec record
			if err := json.Unmarshal(event.Kv.Value, &rec); err != nil {
				s.t.Fatal(err)
			}
			by[rec.By]++
			n++
		}
		if n >= records {
			return by
		}
	}
	s.t.Fatalf("%d records in %s, want %d", n, testPatience, records)
	return nil
}

// TestEtcdMayDie kills etcd, changes stock, and starts it again.
func TestEtcdMayDie(t *testing.T) {
	t.Parallel()
	node := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	s := newShop(t, node.EtcdEndpoints())
	s.put("sku", 0)
	s.put("gone", 1)
	a, b := s.start(), s.start()
	refusing(t, "sku", a, b)
	failures := count(a.cfg.Metrics.Failures)

	node.Etcd[0].Kill()
	refusedUntilOld(t, "sku", time.Now(), a, b)
	s.add("sku", 2)
	left := s.sell("gone", "buyer", "1")
	began := time.Now()
	for range 10_000 {
		a.Changed("sku", 2)
		a.Changed("gone", left)
	}
	if took := time.Since(began); took > testPatience { // a single one waits for etcd as long
		t.Errorf("20000 changes took %s without etcd", took)
	}
	if _, ok := a.List("", 10); ok {
		eventually(t, "the list's end", func() bool { _, ok := a.List("", 10); return !ok })
	}
	if a.refuses("gone") || b.refuses("gone") {
		t.Error("a refusal without etcd")
	}
	eventually(t, "a write that fails, and is to be tried again", func() bool {
		return count(a.cfg.Metrics.Failures) > failures && pending(a) > 0
	})

	if err := node.Etcd[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	restarted := time.Now()
	s.settledAt("sku")
	s.settledAt("gone")
	s.shows(b, "sku")
	refusing(t, "gone", a, b)
	eventually(t, "the end of what is to be written", func() bool { return pending(a) == 0 })
	t.Logf("all is as it was %s after the restart", time.Since(restarted).Round(time.Millisecond))
	if a.refuses("sku") || b.refuses("sku") || a.knowsSoldOut("gone", "buyer", "1") || b.knowsSoldOut("gone", "buyer", "1") {
		t.Error("units, or a buyer, are refused")
	}
}

// TestCompactionWhileCutOff: what one replica missed cannot be read any more.
func TestCompactionWhileCutOff(t *testing.T) {
	t.Parallel()
	node := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	s := newShop(t, node.EtcdEndpoints())
	s.put("sku", 0)
	s.put("dropped", 1)
	way := sandboxtest.NewLink(t, node.Etcd[0].Endpoint[len("http://"):])
	near, far := s.start(), s.start(func(c *Config) { c.Client = newClient(t, []string{"http://" + way.Addr}) })
	near.Changed("sku", 0)
	refusing(t, "sku", near, far)
	s.shows(far, "dropped")

	way.Cut()
	cut := time.Now()
	s.add("sku", 1)
	near.Changed("sku", 1)
	s.settledAt("sku")
	// Without the row nobody writes it again.
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
	refusedUntilOld(t, "sku", cut, far)
	way.Heal()
	s.shows(far, "sku")
	eventually(t, "the end of an entry that was deleted meanwhile", func() bool { _, ok := far.inView("dropped"); return !ok })
	if n := count(far.cfg.Metrics.Relists); n == 0 {
		t.Error("the watch was never opened again: nothing was compacted under it")
	}
	far.Changed("sku", s.sell("sku", "buyer", "1"))
	refusing(t, "sku", near, far)
}

// TestAListIsCompleteOrNone also shows that a mirror which is new to a database
// fills itself.
func TestAListIsCompleteOrNone(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	const skus = 25
	var want []string
	for i := range skus {
		want = append(want, fmt.Sprintf("sku-%02d", i))
		s.put(want[i], int64(i))
	}
	free := make(chan struct{})
	r := s.start(func(c *Config) { c.at = func(step, []string) { <-free } })
	eventually(t, "a record", func() bool { r.mu.RLock(); defer r.mu.RUnlock(); return r.healthy(time.Now()) })
	if list, ok := r.List("", 10); ok {
		t.Errorf("listed %v before anything was written", list)
	}
	close(free)
	var all []Entry
	eventually(t, "the list", func() bool {
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
	eventually(t, "a list of what is after the last", func() bool {
		rest, ok := r.List("sku-24", 10)
		if len(rest) != 0 {
			t.Fatalf("after the last: %v", rest)
		}
		return ok
	})
	if _, ok := r.Get("sku-xx"); ok {
		t.Error("a SKU that is none was found")
	}
}

// TestADatabaseThatWentBack was restored, or made anew under its old name: what
// the mirror has is newer than MySQL. Nothing is refused by it, and it ends.
func TestADatabaseThatWentBack(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 3)
	for sku, seq := range map[string]int{"sku": 100, "ghost": 7} {
		text := fmt.Sprintf(`{"sku":%q,"available":0,"seq":%d}`, sku, seq)
		if _, err := s.etcd.Put(t.Context(), s.prefix+sku, text); err != nil {
			t.Fatal(err)
		}
	}
	r := s.start()
	eventually(t, "the mirror to be as MySQL", func() bool {
		if r.refuses("sku") || r.refuses("ghost") {
			t.Fatal("refused by an entry that MySQL does not bear out")
		}
		_, ghost := r.inView("ghost")
		e, _ := r.inView("sku")
		return !ghost && e.Available == 3 && e.Seq == 0
	})
	for what, counter := range map[string]prometheus.Counter{"stale": r.cfg.Metrics.Stale, "behind": r.cfg.Metrics.Behind} {
		if n := count(counter); n < 2 {
			t.Errorf("%d entries were counted as %s, want both", n, what)
		}
	}
}
