package mirror

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"flashsale/internal/stock"
)

// stranger has bought nothing.
const stranger = "stranger"

func (r *replica) refuses(sku string) bool { return r.knowsSoldOut(sku, stranger, "1") }

// knowsSoldOut is what the view says, before etcd is asked.
func (m *Mirror) knowsSoldOut(sku, customer, key string) bool {
	_, ok := m.soldOut(sku, customer, key)
	return ok
}

// refusing waits until the replicas refuse orders for the SKU.
func refusing(t *testing.T, sku string, replicas ...*replica) {
	t.Helper()
	for _, r := range replicas {
		eventually(t, "a refusal from memory", func() bool { return r.refuses(sku) })
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// TestARestockEndsRefusalEverywhere is counted from the COMMIT.
func TestARestockEndsRefusalEverywhere(t *testing.T) {
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 1)
	here, there := s.start(), s.start()
	sold := 0
	restock := func() time.Duration {
		sold++
		here.Changed("sku", s.sell("sku", "buyer", fmt.Sprint(sold)))
		refusing(t, "sku", here, there)
		s.add("sku", 1)
		committed := time.Now()
		here.Changed("sku", 1)
		if here.refuses("sku") {
			t.Error("the replica that has committed units refuses them")
		}
		eventually(t, "the units elsewhere", func() bool { e, _ := there.inView("sku"); return e.Available == 1 })
		took := time.Since(committed)
		if there.refuses("sku") {
			t.Error("the other replica refuses what it sees")
		}
		return took
	}
	measured(t, func() error {
		var ends []time.Duration
		for range 9 {
			ends = append(ends, restock())
		}
		t.Logf("elsewhere after %s", ends)
		if m := median(ends); m > 100*time.Millisecond {
			return fmt.Errorf("a restock was elsewhere after %s (median), want 100ms at most", m)
		}
		return nil
	})
}

// TestABuyerIsNeverRefusedFromMemory: his answer may have been lost, and he asks
// again after others have bought all. Restocks in between change nothing.
func TestABuyerIsNeverRefusedFromMemory(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	s.put("other", 0)
	r := s.start()
	customer := func(i int) string { return fmt.Sprintf("customer-%d", i/2) }
	key := func(i int) string { return fmt.Sprintf("key-%d", i%3) }
	for round := 1; round <= 3; round++ {
		const units = 20
		s.add("sku", units)
		for i := (round - 1) * units; i < round*units; i++ {
			s.sell("sku", customer(i), key(i))
		}
		r.Changed("sku", 0)
		r.Changed("other", 0)
		seq := s.row("sku").Seq
		eventually(t, "a refusal", func() bool { // of this round
			e, _ := r.inView("sku")
			return e.Seq == seq && r.refuses("sku")
		})
		for i := range round * units {
			if r.knowsSoldOut("sku", customer(i), key(i)) {
				t.Fatalf("round %d: the buyer of order %d is refused", round, i)
			}
		}
		// What the view knows gets old while this waits for the processor.
		for what, refused := range map[string]func() bool{
			"another key of a buyer":       func() bool { return r.knowsSoldOut("sku", customer(0), "another key") },
			"his key in another's hand":    func() bool { return r.knowsSoldOut("sku", "another", key(0)) },
			"his key for an unrelated SKU": func() bool { return r.knowsSoldOut("other", customer(0), key(0)) },
		} {
			eventually(t, "a refusal of "+what, refused)
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.hashes != 60 {
		t.Errorf("%d hashes are counted, want 60", r.hashes)
	}
}

// TestAViewThatLagsRefusesNobody: units came back and were sold again, and the
// view has not heard of it. All that it knows says that the buyer is a stranger.
func TestAViewThatLagsRefusesNobody(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 1)
	here, there := s.start(silent), s.start(silent) // a comparer would find it out
	there.trustsFor(time.Hour)
	here.Changed("sku", s.sell("sku", "first", "1"))
	refusing(t, "sku", there)
	eventually(t, "a stranger's refusal", func() bool { return there.SoldOut(t.Context(), "sku", "second", "2") })
	there.mu.Lock()
	old := *there.items["sku"]
	there.mu.Unlock()

	s.add("sku", 1)
	here.Changed("sku", 1)
	if err := here.Shown(t.Context(), "sku", s.row("sku").Seq); err != nil {
		t.Fatal(err)
	}
	s.sell("sku", "second", "2")                      // not heard of either
	eventually(t, "the view of before", func() bool { // a watch that is opened again knows better
		there.mu.Lock()
		there.items["sku"] = &old
		there.mu.Unlock()
		return there.knowsSoldOut("sku", "second", "2")
	})
	if there.SoldOut(t.Context(), "sku", "second", "2") {
		t.Error("a buyer is refused")
	}
}

// TestShownWaitsForTheEntry, which is not there before somebody says that the row
// has changed.
func TestShownWaitsForTheEntry(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	r := s.start(silent) // a comparer would say so
	r.Changed("sku", 0)
	eventually(t, "the entry", func() bool { _, ok := r.inView("sku"); return ok })
	s.add("sku", 1)
	seq := s.row("sku").Seq
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := r.Shown(short, "sku", seq); err == nil {
		t.Error("it is said to be shown before anybody has put it")
	}
	r.Changed("sku", 1)
	if err := r.Shown(t.Context(), "sku", seq); err != nil {
		t.Error(err)
	}
	if e, _ := s.stored("sku"); e.Seq < seq {
		t.Errorf("etcd has seq %d, want %d", e.Seq, seq)
	}
}

// TestRefusalsEndWithTheMirror: nobody waits for a question that is not asked.
func TestRefusalsEndWithTheMirror(t *testing.T) {
	m := &Mirror{ask: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.confirm(ctx)
	if m.newest(t.Context(), "sku", 1) {
		t.Error("confirmed by nobody")
	}
}

// TestADoubtEnds: units that were committed here are gone again, and their end is
// in the mirror before their coming is heard of.
func TestADoubtEnds(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 0)
	r := s.start()
	refusing(t, "sku", r)
	unlock := s.lock()
	r.Changed("sku", 5)
	if r.refuses("sku") {
		t.Error("refused before MySQL was asked")
	}
	unlock()
	refusing(t, "sku", r)
	if n := count(r.cfg.Metrics.Writes); n != 1 {
		t.Errorf("%d entries were written, want the first", n)
	}
}

// TestRunLeavesNothing looks for goroutines. What the mirror was told last is in
// etcd.
func TestRunLeavesNothing(t *testing.T) {
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 5)
	s.row("sku") // opens the operator's connections, as the next line does
	s.stored("sku")
	before := goleak.IgnoreCurrent()
	measured(t, func() error { // the last write has a second
		db, err := stock.Open(s.dsn, 4)
		if err != nil {
			t.Fatal(err)
		}
		client := newClient(t, s.ends)
		r := s.start(func(c *Config) { c.DB, c.Client = db, client })
		s.shows(r, "sku")
		for range 3 {
			s.add("sku", 1)
			r.Changed("sku", 5)
		}
		r.stop()
		if _, ok := r.Get("sku"); ok || r.refuses("sku") {
			t.Error("a mirror that has ended answers")
		}
		client.Close()
		_ = db.Close()
		if err := goleak.Find(before); err != nil {
			t.Error(err)
		}
		if e, _ := s.stored("sku"); e.Seq != s.row("sku").Seq {
			return fmt.Errorf("after the end etcd has %+v", e)
		}
		return nil
	})
}

// TestRefusalNeedsAllOfIt takes one condition away at a time.
func TestRefusalNeedsAllOfIt(t *testing.T) {
	t.Parallel()
	client := newClient(t, servers.EtcdEndpoints())
	fresh := func() (*Mirror, *item) {
		m, err := New(Config{Client: client, DB: openDB(t, servers.MySQL.DSN("none")), Prefix: "p"})
		if err != nil {
			t.Fatal(err)
		}
		it := &item{Entry: Entry{SKU: "sku", Seq: 4}, revision: 10, buyers: &buyers{seq: 4, hashes: []uint64{m.hash("c", "k")}}}
		m.items["sku"] = it
		m.synced, m.revision, m.asOf = true, 12, time.Now().Add(time.Hour)
		m.record = record{Compared: 10, revision: 12}
		return m, it
	}
	if m, _ := fresh(); !m.knowsSoldOut("sku", "c", "another") {
		t.Fatal("not refused though all is given")
	}
	for name, without := range map[string]func(m *Mirror, it *item){
		"units":             func(_ *Mirror, it *item) { it.Available = 1 },
		"an entry":          func(m *Mirror, _ *item) { delete(m.items, "sku") },
		"a readable entry":  func(_ *Mirror, it *item) { it.wrong = true },
		"a commit of ours":  func(m *Mirror, _ *item) { m.Changed("sku", 1) },
		"a watch":           func(m *Mirror, _ *item) { m.desync() },
		"a comparison":      func(m *Mirror, _ *item) { m.record.Compared = 0 },
		"the newest entry":  func(_ *Mirror, it *item) { it.revision = 11 },
		"an equal row":      func(m *Mirror, _ *item) { m.record.except = map[string]bool{"sku": true} },
		"a recent one":      func(m *Mirror, _ *item) { m.asOf = time.Now().Add(-maxAge - time.Millisecond) },
		"a datable one":     func(m *Mirror, _ *item) { m.asOf = time.Time{} },
		"the buyers":        func(_ *Mirror, it *item) { it.buyers = nil },
		"the latest buyers": func(_ *Mirror, it *item) { it.buyers.seq = 3 },
		"a strange key":     func(m *Mirror, it *item) { it.buyers = &buyers{4, []uint64{m.hash("c", "another")}} },
	} {
		m, it := fresh()
		without(m, it)
		if m.knowsSoldOut("sku", "c", "another") {
			t.Errorf("refused in want of %s", name)
		}
	}
}

// TestARevisionIsDatedByAsking: nothing is as old as it was when it came in.
func TestARevisionIsDatedByAsking(t *testing.T) {
	t.Parallel()
	now := time.Now()
	m := &Mirror{samples: []sample{{now.Add(-900 * time.Millisecond), 10}, {now.Add(-600 * time.Millisecond), 10}, {now.Add(-300 * time.Millisecond), 20}}}
	for revision, want := range map[int64]time.Time{
		0:  {},
		10: {}, // it was reached before etcd was asked first
		11: now.Add(-600 * time.Millisecond),
		20: now.Add(-600 * time.Millisecond),
		21: now.Add(-300 * time.Millisecond),
	} {
		if got := m.reached(revision); !got.Equal(want) {
			t.Errorf("revision %d is dated %s, want %s before now", revision, now.Sub(got), now.Sub(want))
		}
	}
}

// TestARecordThatCameLateIsOld: the watch had lagged, or the process was stopped.
func TestARecordThatCameLateIsOld(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	m, err := New(Config{Client: s.etcd, DB: s.db, Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	m.install(10, []*mvccpb.KeyValue{kv("p/sku", `{"sku":"sku","seq":4}`, 10)})
	m.items["sku"].buyers = &buyers{seq: 4}
	m.samples = []sample{{time.Now().Add(-2 * time.Second), 10}, {time.Now().Add(time.Hour), 99}}
	m.apply([]*clientv3.Event{{Kv: kv("p/"+recordName, `{"by":"another","compared":11}`, 12)}})
	if m.knowsSoldOut("sku", "c", "k") {
		t.Error("refused by what may be two seconds old")
	}
	m.apply([]*clientv3.Event{{Kv: kv("p/"+recordName, `{"by":"another","compared":100}`, 101)}})
	if !m.knowsSoldOut("sku", "c", "k") {
		t.Error("not refused by what has happened since the last sample")
	}
	m.apply([]*clientv3.Event{{Kv: kv("p/"+recordName, `{"by":"another","compared":101,"except":["sku"]}`, 102)}})
	if m.knowsSoldOut("sku", "c", "k") {
		t.Error("refused by an entry that the record excepts")
	}
}

// TestEventsBeforeTheListAreSkipped: a key that one of them puts was deleted since.
func TestEventsBeforeTheListAreSkipped(t *testing.T) {
	t.Parallel()
	s := newShop(t, servers.EtcdEndpoints())
	m, err := New(Config{Client: s.etcd, DB: s.db, Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	put := func(sku string, seq int, revision int64) *clientv3.Event {
		return &clientv3.Event{Type: clientv3.EventTypePut, Kv: kv("p/"+sku, fmt.Sprintf(`{"sku":%q,"seq":%d}`, sku, seq), revision)}
	}
	m.install(20, []*mvccpb.KeyValue{put("a", 1, 12).Kv})
	m.apply([]*clientv3.Event{put("gone", 1, 13), put("b", 1, 21), put("c", 1, 21)})
	if want := []string{"a", "b", "c"}; !slices.Equal(m.names, want) || m.revision != 21 {
		t.Errorf("the view has %q as of %d, want %q as of 21", m.names, m.revision, want)
	}
	m.mu.Lock()
	m.learn("a", 25, kv("p/a", `{"sku":"a","seq":9}`, 25)) // ahead of the watch
	m.mu.Unlock()
	m.apply([]*clientv3.Event{put("a", 8, 24), {Type: clientv3.EventTypeDelete, Kv: kv("p/b", "", 24)}})
	m.mu.Lock()
	m.learn("b", 22, kv("p/b", `{"sku":"b","seq":9}`, 21)) // behind it
	m.mu.Unlock()
	if it := m.items["a"]; it.Seq != 9 || it.wrong || m.items["b"] != nil {
		t.Errorf("the view has %+v, %+v", it, m.items["b"])
	}
}

func kv(key, value string, revision int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: revision}
}

func TestSoldOutDoesNotAllocate(t *testing.T) {
	m := soldOutMirror() // one that runs would allocate aside
	if n := testing.AllocsPerRun(1000, func() {
		if !m.knowsSoldOut("sku", stranger, "k") {
			t.Error("not refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// soldOutMirror refuses orders of a SKU that had a hundred thousand buyers. It does
// not run.
func soldOutMirror() *Mirror {
	m := &Mirror{items: map[string]*item{}, synced: true, asOf: time.Now().Add(time.Hour), record: record{Compared: 10}}
	set := make([]uint64, 100_000)
	for i := range set {
		set[i] = uint64(i) << 46
	}
	m.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	m.items["sku"] = &item{Entry: Entry{SKU: "sku"}, buyers: &buyers{hashes: set}}
	return m
}

func BenchmarkSoldOut(b *testing.B) {
	m := soldOutMirror()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if !m.knowsSoldOut("sku", "a customer", "0190c2e5-6e4e-7c1c-9a54-1f2b6f6f1d11") {
				b.Error("not refused")
			}
		}
	})
}
