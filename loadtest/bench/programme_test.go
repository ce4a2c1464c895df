package bench

import (
	"testing"

	"flashsale/loadtest/peer"
)

func TestStandardProgrammeHasEveryPeerOnTheHotSKU(t *testing.T) {
	p := Standard()
	if hot := p.Sections[0]; hot.Load != "hot" || hot.Replicas != 2 || len(hot.Peers) != len(peer.All()) {
		t.Errorf("the first section is %s with %d peers", hot.Setting, len(hot.Peers))
	}
	runs := map[string]int{}
	for _, s := range p.steps() {
		runs[s.String()]++
	}
	for _, want := range []string{
		"even:100, 2 replicas", "even:1000, 2 replicas", "zipf:1000, 2 replicas", "sold-out, 2 replicas", "hot, 1 replica", "hot, 4 replicas",
		"hot, 2 replicas, open", "hot, 2 replicas, binlog",
	} {
		if runs[want] < 2 {
			t.Errorf("%s has %d peers", want, runs[want])
		}
	}
	for _, s := range p.Keep(some(peer.Batched)).steps() {
		delete(runs, s.String())
	}
	delete(runs, "hot, 1 replica")
	delete(runs, "hot, 4 replicas")
	if len(runs) > 0 {
		t.Errorf("conditional-batched does not run in: %v", runs)
	}
	got := p.Keep(some("buckets"))
	if len(got.Sections) != 1 || len(got.steps()) != 1 || len(got.peers()) != 1 {
		t.Errorf("got %+v, want one run of one peer", got)
	}
	if full := Full(); len(full.steps()) < 4*len(p.steps()) {
		t.Errorf("the full programme has %d runs, the standard one %d", len(full.steps()), len(p.steps()))
	}
}

func TestOpenLoopRateIsBelowThePeersCapacity(t *testing.T) {
	for _, tt := range []struct {
		name      string
		noop, own float64
		asked     int
		want      int
	}{
		{"the standard rate", 30_000, 25_000, 0, standardRate},
		{"half of noop's result if that is less", 12_000, 11_000, 0, 6000},
		{"half of its own result if that is less", 30_000, 4000, 0, 2000},
		{"half of its own result without noop", 0, 4000, 0, 2000},
		{"the requested rate", 30_000, 4000, 9000, 9000},
		{"no result yet", 0, 0, 0, 0},
	} {
		b := &bench{own: map[string]float64{noop: tt.noop, "etcd": tt.own}, cfg: Config{Programme: Programme{Rate: tt.asked}}}
		if got := b.rate(some("etcd")[0]); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}
