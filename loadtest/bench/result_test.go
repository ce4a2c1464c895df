package bench

import (
	"bytes"
	"strings"
	"testing"

	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

func TestMedianIsTheMiddle(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0}, {[]float64{4}, 4}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median of %v is %g, want %g", tt.values, got, tt.want)
		}
	}
}

// run is a run in that setting.
func run(name string, s Setting, round int, served float64) Run {
	return Run{
		Run:  proof.Run{Strategy: name, Replicas: s.Replicas, Verdict: strategy.Exact, Expected: strategy.Exact},
		Load: s.Load, Open: s.Open, Binlog: s.Binlog, Round: round, Served: served,
		CPU: map[string]float64{"replicas": served / 100}, RSS: map[string]float64{"replicas": 50},
	}
}

func TestRatiosUseNoopOfTheSameRound(t *testing.T) {
	hot := Setting{Load: "hot", Replicas: 2}
	logged := Setting{Load: "hot", Replicas: 2, Binlog: true}
	r := Result{Runs: []Run{
		run("noop", hot, 1, 1000), run("etcd", hot, 1, 800), run("etcd", logged, 1, 600),
		run("noop", hot, 2, 2000), run("etcd", hot, 2, 1800), run("etcd", logged, 2, 1000),
		run("noop", hot, 3, 1000), run("etcd", hot, 3, 850), run("etcd", Setting{Load: "hot", Replicas: 4}, 3, 700),
	}}
	r.settle()
	if len(r.Medians) != 4 || !r.Proven {
		t.Fatalf("got %d medians, proven %v", len(r.Medians), r.Proven)
	}
	etcd := r.Medians[1]
	if etcd.Peer != "etcd" || etcd.Served != 850 || etcd.RatioToNoop != 0.85 || etcd.Least != 800 || etcd.Most != 1800 || etcd.CPU["replicas"] != 8.5 {
		t.Errorf("etcd, hot: got %+v", etcd)
	}
	if m := r.Medians[2]; !m.Binlog || m.RatioToNoop != 0.55 {
		t.Errorf("with a binlog, the run without a binlog is noop: got %+v", m)
	}
	if m := r.Medians[3]; m.Replicas != 4 || m.RatioToNoop != 0 {
		t.Errorf("without noop, want no ratio: got %+v", m)
	}
	if g := r.Goals[0]; g.Got != 0.85 || !g.Met {
		t.Errorf("got goal %+v", g)
	}
}

func TestUnexpectedVerdictIsReported(t *testing.T) {
	hot := Setting{Load: "hot", Replicas: 2}
	wrong := run("etcd", hot, 2, 5)
	wrong.Verdict = strategy.Lost
	wrong.Examples = []string{"request 7 was promised an order that does not exist"}
	r := Result{Runs: []Run{run("etcd", hot, 1, 10), wrong, run("etcd", hot, 3, 10)}}
	r.settle()
	if r.Proven || r.Medians[0].Verdict != strategy.Lost {
		t.Errorf("got proven %v, verdict %s", r.Proven, r.Medians[0].Verdict)
	}
	var table, page bytes.Buffer
	if err := Table(&table, &r); err != nil {
		t.Fatal(err)
	}
	if err := Page(&page, &r); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"table": table.String(), "page": page.String()} {
		for _, want := range []string{"request 7 was promised", "1 of 3 runs did not have the expected verdict", "lost"} {
			if !strings.Contains(text, want) {
				t.Errorf("the %s lacks %q", name, want)
			}
		}
	}
	if strings.Contains(page.String(), "https://") && strings.Contains(page.String(), "src=") {
		t.Error("the page loads another file")
	}
}

func TestGoalsNeedBothPeers(t *testing.T) {
	if list := goals(nil); len(list) != 0 {
		t.Errorf("got goals without a run: %v", list)
	}
	open := Setting{Load: "hot", Replicas: 2, Open: true}
	all := []Median{
		{Peer: "noop", Setting: open, Rate: 1000, Latency: proof.Latency{P99: 3}},
		{Peer: "etcd", Setting: open, Rate: 1000, Latency: proof.Latency{P99: 8}},
	}
	if list := goals(all); len(list) != 1 || !list[0].Met {
		t.Errorf("got %+v", list)
	}
	all[1].Rate = 500
	if list := goals(all); len(list) != 1 || list[0].Met {
		t.Errorf("got %+v, want no goal met at another rate", list)
	}
}

func TestBatchedPeerHasItsOwnGoal(t *testing.T) {
	hot := Setting{Load: "hot", Replicas: 2}
	got := map[string]Goal{}
	for _, g := range goals([]Median{
		{Peer: "conditional-batched", Setting: hot, Served: 1000}, {Peer: "buckets", Setting: hot, Served: 100}, {Peer: "etcd", Setting: hot, Served: 900},
	}) {
		got[g.What] = g
	}
	for what, want := range map[string]float64{
		"etcd by conditional-batched, hot SKU": 0.9, "etcd by the best durable SQL peer that does not batch (buckets), hot SKU": 9,
	} {
		if g, ok := got[what]; !ok || g.Got != want {
			t.Errorf("%s: got %+v, want %g", what, g, want)
		}
	}
}
