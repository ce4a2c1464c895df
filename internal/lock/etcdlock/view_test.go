package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/lock/lease"
)

// newView makes a Locker with one lease and one name, and without a server.
func newView(t *testing.T, left time.Duration) (*Locker, *queue) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(testConfig(client))
	if err != nil {
		t.Fatal(err)
	}
	l.closed = true // no background requests: there is no server
	// The TTL is so long that the lease is never renewed. A tenth of it is the margin
	// of lease.Keep.
	asked := time.Now().Add(left - longTTL*9/10)
	ls := &sharedLease{Lease: lease.Keep(longTTL, asked, nil), id: 7, ttl: testTTL, strays: map[string]bool{}}
	ls.ctx, ls.end = context.WithCancel(t.Context())
	l.lease = ls
	l.cfg.Prefix = "p/"
	q := &queue{name: "n", prefix: "p/n/", keys: map[string]entry{}, places: map[string]*place{}}
	l.queues["n"] = q
	t.Cleanup(func() {
		ls.Stop()
		client.Close()
	})
	return l, q
}

// created returns the create revisions of the view.
func created(q *queue) map[string]int64 {
	revisions := map[string]int64{}
	for key, e := range q.keys {
		revisions[key] = e.created
	}
	return revisions
}

// newPlace adds a waiting place. Revision 0 means that etcd has not answered yet.
func newPlace(l *Locker, q *queue, n int, revision int64) *place {
	p := &place{
		locker: l, queue: q, lease: l.lease, key: fmt.Sprintf("%s7-%d", q.prefix, n), revision: revision,
		turn: make(chan struct{}), lost: make(chan struct{}), contended: make(chan struct{}),
	}
	if revision > 0 {
		p.state = waiting
	}
	q.places[p.key] = p
	return p
}

func put(key string, revision int64) *clientv3.Event {
	return &clientv3.Event{Type: mvccpb.Event_PUT, Kv: &mvccpb.KeyValue{
		Key: []byte(key), CreateRevision: revision, ModRevision: revision,
	}}
}

func del(key string, revision int64) *clientv3.Event {
	return &clientv3.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: revision}}
}

func kv(key string, revision int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), CreateRevision: revision, ModRevision: revision}
}

func TestOldEventsAreSkipped(t *testing.T) {
	l, q := newView(t, time.Minute)
	l.replace(q, 20, []*mvccpb.KeyValue{kv("p/n/a", 12)})
	l.apply([]*clientv3.Event{put("p/n/old", 11), del("p/n/old", 13), del("p/n/a", 10)})
	if want := map[string]int64{"p/n/a": 12}; !maps.Equal(created(q), want) || q.revision != 20 {
		t.Errorf("view %v at %d, want %v at 20", created(q), q.revision, want)
	}
	// An expired lease ends all its keys in one revision.
	l.apply([]*clientv3.Event{put("p/n/b", 21), put("p/n/c", 22), del("p/n/a", 23), del("p/n/b", 23)})
	if want := map[string]int64{"p/n/c": 22}; !maps.Equal(created(q), want) || q.revision != 23 {
		t.Errorf("view %v at %d, want %v at 23", created(q), q.revision, want)
	}
	l.replace(q, 22, []*mvccpb.KeyValue{kv("p/n/a", 12), kv("p/n/c", 22)})
	if len(q.keys) != 1 || q.revision != 23 {
		t.Errorf("an older list replaced the view: %v at %d", created(q), q.revision)
	}
}

func TestAViewOlderThanThePlaceDoesNotEndIt(t *testing.T) {
	l, q := newView(t, time.Minute)
	p := newPlace(l, q, 1, 30)
	l.replace(q, 29, nil)
	if p.state != waiting {
		t.Errorf("a place of revision 30 has state %d by a view of revision 29, want waiting", p.state)
	}
	l.replace(q, 31, nil)
	if p.state != gone || !errors.Is(p.err, errRemoved) {
		t.Errorf("a place that is not in the view has state %d and error %v, want gone and errRemoved", p.state, p.err)
	}
}

func TestNoGrantPastTheLeaseDeadline(t *testing.T) {
	l, q := newView(t, -time.Millisecond)
	p := newPlace(l, q, 1, 30)
	l.replace(q, 30, []*mvccpb.KeyValue{kv(p.key, 30)})
	if p.state != waiting {
		t.Errorf("the first place has state %d although its lease has ended, want waiting", p.state)
	}
}

func TestAnUnansweredPlaceIsNotGranted(t *testing.T) {
	l, q := newView(t, time.Minute)
	p := newPlace(l, q, 1, 0)
	l.replace(q, 30, nil)
	l.apply([]*clientv3.Event{put(p.key, 31)})
	if p.state != requested {
		t.Errorf("a place without a revision has state %d, want requested", p.state)
	}
}

// TestViewFollowsAnyHistory applies random histories of a queue to a view: in batches,
// with repeated events as after a resumed watch, and with older and newer lists in
// between. The view must equal etcd's state at its revision.
func TestViewFollowsAnyHistory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		l, q := newView(t, time.Minute)
		states := []map[string]int64{{}} // the keys at each revision
		var events []*clientv3.Event
		for revision := int64(1); revision <= 40; revision++ {
			now := maps.Clone(states[revision-1])
			if len(now) == 0 || rnd.IntN(2) == 0 {
				key := fmt.Sprintf("p/n/%d", revision)
				now[key] = revision
				events = append(events, put(key, revision))
			} else {
				for key := range now { // some, all in one revision
					if rnd.IntN(2) == 0 {
						delete(now, key)
						events = append(events, del(key, revision))
					}
				}
			}
			states = append(states, now)
		}
		list := func(revision int64) {
			var kvs []*mvccpb.KeyValue
			for key, created := range states[revision] {
				kvs = append(kvs, kv(key, created))
			}
			l.replace(q, revision, kvs)
		}
		for sent := 0; sent < len(events); {
			next := min(len(events), sent+1+rnd.IntN(5))
			for next < len(events) && events[next].Kv.ModRevision == events[next-1].Kv.ModRevision {
				next++ // etcd never splits a revision
			}
			l.apply(events[max(0, sent-sameRevision(events, sent)-rnd.IntN(2)):next])
			sent = next
			switch rnd.IntN(3) {
			case 0:
				list(rnd.Int64N(41))
			case 1:
				list(min(40, q.revision+1))
			}
			if want := states[q.revision]; !maps.Equal(created(q), want) {
				t.Fatalf("at revision %d the view is %v, want %v", q.revision, created(q), want)
			}
		}
	}
}

// sameRevision returns the number of events just before i that have one revision.
func sameRevision(events []*clientv3.Event, i int) int {
	n := 0
	for n < i && events[i-1-n].Kv.ModRevision == events[i-1].Kv.ModRevision {
		n++
	}
	return n
}
