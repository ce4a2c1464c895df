package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"flashsale/internal/sandbox/sandboxtest/leaks"
	"flashsale/internal/stock"
)

// The test follows the view by Next and Since, as event streams do, while two replicas
// sell.
func TestFollowerSeesTheLastChangeOfEachSKU(t *testing.T) {
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
		seller.Changed(sku, s.sell(sku))
	}
	if problem := <-soldOut; problem != "" {
		t.Error(problem)
	}
}

// followToTheEnd returns "" when that many SKUs were seen and all are sold out, or what
// is wrong.
func followToTheEnd(ctx context.Context, r *replica, skus int) string {
	seen := map[string]stock.Level{}
	for change := int64(0); ; {
		next := r.Next()
		changed, now, ok := r.Since(change)
		if ok {
			change = now
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
			return fmt.Sprintf("the view ends with %d units of %d SKUs, want 0 units of %d", left, len(seen), skus)
		}
	}
}

// The test looks for goroutines, and for the last changes in etcd.
func TestRunEndsCleanly(t *testing.T) {
	s := newShop(t, servers.EtcdEndpoints())
	s.put("sku", 5)
	s.row("sku") // opens the test's own connections, as the next line does
	s.stored("sku")
	before := goleak.IgnoreCurrent()
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
	if _, ok := r.Get("sku"); ok {
		t.Error("a mirror that has ended still answers")
	}
	client.Close()
	_ = db.Close()
	leaks.None(t, before)
	if e, _ := s.stored("sku"); e.Seq != s.row("sku").Seq {
		t.Errorf("after the end etcd has %+v, want the seq of MySQL", e)
	}
}

// One of the skipped events puts a key that was deleted before the list.
func TestEventsBeforeTheListAreSkipped(t *testing.T) {
	t.Parallel()
	m := idle(t)
	m.install(20, []*mvccpb.KeyValue{put("a", 1, 12).Kv})
	m.apply([]*clientv3.Event{put("gone", 1, 13), put("b", 1, 21), put("c", 1, 21)})
	if want := []string{"a", "b", "c"}; !slices.Equal(m.names, want) || m.revision != 21 {
		t.Errorf("the view has %q as of %d, want %q as of 21", m.names, m.revision, want)
	}
}

// The revisions of a restored etcd are lower than before.
func TestRestoredEtcdIsFollowed(t *testing.T) {
	t.Parallel()
	m := idle(t)
	m.install(20, []*mvccpb.KeyValue{put("a", 5, 12).Kv, put("b", 1, 13).Kv})
	m.apply(nil)
	_, change, _ := m.Since(0)
	m.install(10, []*mvccpb.KeyValue{put("a", 4, 9).Kv})
	m.apply([]*clientv3.Event{put("c", 1, 11)})
	changed, _, ok := m.Since(change)
	if !ok || len(changed) != 2 || changed[0].Seq != 4 || changed[1].SKU != "c" {
		t.Errorf("since change %d the view has %+v, %v; want a and c", change, changed, ok)
	}
	if _, ok := m.Get("b"); ok {
		t.Error("the view has an entry that etcd does not have")
	}
}

// The process was stopped, and has not yet noticed that its watch is silent.
func TestStaleViewIsNotShownAfterAPause(t *testing.T) {
	t.Parallel()
	m := idle(t)
	m.install(20, []*mvccpb.KeyValue{put("a", 5, 12).Kv})
	m.apply(nil)
	if _, ok := m.Get("a"); !ok {
		t.Error("the view is not current before the pause")
	}
	m.heard = m.heard.Add(-silence)
	if e, ok := m.Get("a"); ok {
		t.Errorf("after the pause the view shows %+v", e)
	}
	m.apply(nil)
	if _, ok := m.Get("a"); !ok {
		t.Error("the view is not current after an answer")
	}
}

// An entry that is announced later is in the view, but not listed. Its announcement is a
// change of the view.
func TestAnnouncementIsAChangeOfTheView(t *testing.T) {
	t.Parallel()
	m := idle(t)
	at := time.Now().Add(time.Hour)
	secret := put("b", 1, 13)
	secret.Kv.Value = fmt.Appendf(nil, `{"sku":"b","seq":1,"visible_from":%q}`, at.Format(time.RFC3339Nano))
	m.install(20, []*mvccpb.KeyValue{put("a", 1, 12).Kv, secret.Kv, put("c", 1, 14).Kv})
	m.apply(nil)
	m.complete = true
	listed := func() string {
		list, ok := m.List("", 2)
		n, counted := m.Count()
		text := fmt.Sprint(ok, counted, n)
		for _, e := range list {
			text += " " + e.SKU
		}
		return text
	}
	if got, want := listed(), "true true 2 a c"; got != want {
		t.Errorf("before: listed %q, want %q", got, want)
	}
	all, change, _ := m.Since(0)
	if len(all) != 3 || !all[1].Unlisted || all[0].Unlisted {
		t.Errorf("before: all SKUs are %+v", all)
	}
	catalog := Catalog{Mirror: m}
	if _, err := catalog.Get(t.Context(), "b"); !errors.Is(err, stock.ErrUnknownSKU) {
		t.Errorf("before: got %v, want %v", err, stock.ErrUnknownSKU)
	}
	if wait := m.announceDue(at.Add(-clockCheck / 2)); wait > clockCheck/2 {
		t.Errorf("waits %s for the announcement", wait)
	}
	next := m.Next()
	m.announceDue(at)
	select {
	case <-next:
	default:
		t.Error("nobody was woken")
	}
	if changed, _, _ := m.Since(change); len(changed) != 1 || changed[0].SKU != "b" || changed[0].Unlisted {
		t.Errorf("after: changed is %+v", changed)
	}
	if got, want := listed(), "true true 3 a b"; got != want {
		t.Errorf("after: listed %q, want %q", got, want)
	}
	if e, err := catalog.Get(t.Context(), "b"); err != nil || e.SKU != "b" {
		t.Errorf("after: got %+v, %v", e, err)
	}
	if len(m.upcoming) != 0 {
		t.Errorf("still waits for %v", m.upcoming)
	}
	secret.Kv.Value, secret.Kv.ModRevision = []byte(`{"sku":"b","seq":2,"withdrawn_at":"2026-01-01T00:00:00Z"}`), 21
	m.apply([]*clientv3.Event{secret})
	if got, want := listed(), "true true 2 a c"; got != want || len(m.upcoming) != 0 {
		t.Errorf("withdrawn: listed %q, want %q", got, want)
	}
}

// idle is a Mirror that does not run.
func idle(t *testing.T) *Mirror {
	t.Helper()
	m, err := New(Config{Client: newClient(t, servers.EtcdEndpoints()), DB: openDB(t, servers.MySQL.DSN("none")), Prefix: "p"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func put(sku string, seq int, revision int64) *clientv3.Event {
	value := fmt.Sprintf(`{"sku":%q,"seq":%d}`, sku, seq)
	return &clientv3.Event{Type: clientv3.EventTypePut, Kv: &mvccpb.KeyValue{Key: []byte("p/" + sku), Value: []byte(value), ModRevision: revision}}
}
