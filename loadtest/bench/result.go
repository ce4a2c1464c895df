package bench

import (
	"fmt"
	"math"
	"slices"

	"flashsale/internal/strategy"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/proof"
)

// Result is the result of a bench. As JSON it is out/bench.json.
type Result struct {
	Runs    []Run    `json:"runs"`
	Medians []Median `json:"medians"`
	Goals   []Goal   `json:"goals"`
	Seed    uint64   `json:"seed"`
	// Proven: every run had its expected verdict.
	Proven bool `json:"proven"`
	// Peers are those that ran. Tuning has the ways to run them that were tried first.
	Peers  []peer.Peer `json:"peers"`
	Tuning []Tuned     `json:"tuning"`
	// Database is the product with its version.
	Database string `json:"database"`
	// MySQL has the server's settings, MySQLBinlog those of the runs with a binlog.
	MySQL       map[string]string `json:"mysql_settings"`
	MySQLBinlog map[string]string `json:"mysql_settings_binlog,omitempty"`
	Machine     Machine           `json:"machine"`
	// Notes qualify the figures.
	Notes []string `json:"notes"`
	// Took is the duration of the whole bench, in seconds.
	Took float64 `json:"took_seconds"`
}

// Setting is what runs that are compared have in common.
type Setting struct {
	Load     string `json:"load"`
	Replicas int    `json:"replicas"`
	Binlog   bool   `json:"binlog"`
	// Open: requests are sent at a fixed rate, and not after the answer to the last one.
	Open bool `json:"open_loop"`
}

// Run is a peer's run in one setting and one round. Its counts and its verdict are
// about the whole run, its rates and latencies about the window after the warm-up.
type Run struct {
	proof.Run
	Load    string `json:"load"`
	Open    bool   `json:"open_loop"`
	Workers int    `json:"workers"` // of a closed loop
	Round   int    `json:"round"`
	Binlog  bool   `json:"binlog"`
	// Durable: promised orders survive a loss of power.
	Durable bool `json:"durable"`
	// How is the way in which it ran, CheckedBy how it was reconciled.
	How       string `json:"how"`
	CheckedBy string `json:"checked_by"`
	// Served is the orders and the sold-out refusals a second.
	Served float64 `json:"served_per_second"`
	// RatioToNoop is Served divided by noop's in the same round, or 0 without noop.
	RatioToNoop float64 `json:"ratio_to_noop"`
	// CPU is in microseconds for each answer counted in Served, by kind of process. RSS
	// is the peak memory of the largest process of each kind.
	CPU map[string]float64 `json:"cpu_us_per_order"`
	RSS map[string]float64 `json:"rss_mib"`
}

func (r *Run) setting() Setting {
	return Setting{Load: r.Load, Replicas: r.Replicas, Binlog: r.Binlog, Open: r.Open}
}

// Median has the medians of a peer's figures in one setting, over all rounds.
type Median struct {
	Peer string `json:"peer"`
	Setting
	Durable     bool               `json:"durable"`
	Rounds      int                `json:"rounds"`
	Rate        int                `json:"rate"`
	Workers     int                `json:"workers"`
	How         string             `json:"how"`
	Served      float64            `json:"served_per_second"`
	Least       float64            `json:"served_least"`
	Most        float64            `json:"served_most"`
	RatioToNoop float64            `json:"ratio_to_noop"`
	Latency     proof.Latency      `json:"latency_ms"`
	CPU         map[string]float64 `json:"cpu_us_per_order"`
	RSS         map[string]float64 `json:"rss_mib"`
	// Verdict is an unexpected one, if any round had one.
	Verdict strategy.Verdict `json:"verdict"`
}

// measured replaces the rates and latencies of the whole run by those of the window.
func (r *Run) measured(t *measurement, used map[string]usage) {
	answers, latencies := t.inWindow()
	window := (t.to - t.from).Seconds()
	counts := proof.Count(answers)
	served := counts.Accepted + counts.SoldOut
	r.Throughput = float64(len(answers)) / window
	r.AcceptedPerSecond = float64(counts.Accepted) / window
	r.Served = float64(served) / window
	r.AchievedRate = float64(len(t.answers)) / t.to.Seconds()
	r.Latency, r.Curve = proof.LatencyOf(latencies), proof.CurveOf(latencies)
	r.CPU, r.RSS = map[string]float64{}, map[string]float64{}
	for name, u := range used {
		if served > 0 {
			r.CPU[name] = round(float64(u.cpu.Microseconds())/float64(served), 10)
		}
		r.RSS[name] = round(float64(u.peakRSS)/(1<<20), 10)
	}
}

// settle computes the ratios, the medians, the goals and Proven.
func (r *Result) settle() {
	r.Proven = len(r.Runs) > 0
	for i := range r.Runs {
		run := &r.Runs[i]
		r.Proven = r.Proven && run.Verdict == run.Expected
		at := run.setting()
		at.Binlog = false // noop is the same with and without a binlog
		for j := range r.Runs {
			if other := &r.Runs[j]; other.Strategy == noop && other.setting() == at && other.Round == run.Round && other.Served > 0 {
				run.RatioToNoop = round(run.Served/other.Served, 1e4)
			}
		}
	}
	r.Medians = medians(r.Runs)
	r.Goals = goals(r.Medians)
}

// noop is the peer that the others are compared with.
const noop = "noop"

// medians are in the order in which peer and setting first ran.
func medians(runs []Run) []Median {
	var list []Median
	groups := [][]*Run{} // of the medians
	for i := range runs {
		run := &runs[i]
		at := slices.IndexFunc(list, func(m Median) bool { return m.Peer == run.Strategy && m.Setting == run.setting() })
		if at < 0 {
			at = len(list)
			list = append(list, Median{
				Peer: run.Strategy, Setting: run.setting(), Durable: run.Durable, Rate: run.Rate, Workers: run.Workers, How: run.How,
				CPU: map[string]float64{}, RSS: map[string]float64{}, Verdict: run.Verdict, Least: math.Inf(1),
			})
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], run)
		m := &list[at]
		m.Rounds++
		m.Least, m.Most = min(m.Least, run.Served), max(m.Most, run.Served)
		if run.Verdict != run.Expected {
			m.Verdict = run.Verdict
		}
	}
	for i := range list {
		m, group := &list[i], groups[i]
		of := func(figure func(*Run) float64) float64 {
			values := make([]float64, len(group))
			for i, run := range group {
				values[i] = figure(run)
			}
			return median(values)
		}
		m.Served, m.RatioToNoop = of(func(r *Run) float64 { return r.Served }), of(func(r *Run) float64 { return r.RatioToNoop })
		m.Latency = proof.Latency{
			P50: of(func(r *Run) float64 { return r.Latency.P50 }), P95: of(func(r *Run) float64 { return r.Latency.P95 }),
			P99: of(func(r *Run) float64 { return r.Latency.P99 }), P999: of(func(r *Run) float64 { return r.Latency.P999 }),
			Max: of(func(r *Run) float64 { return r.Latency.Max }),
		}
		for name := range group[0].CPU {
			m.CPU[name] = of(func(r *Run) float64 { return r.CPU[name] })
			m.RSS[name] = of(func(r *Run) float64 { return r.RSS[name] })
		}
	}
	return list
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// Goal is a target for a figure of the service, and the measured value.
type Goal struct {
	What  string  `json:"what"`
	Bound float64 `json:"wanted"`
	Got   float64 `json:"got"`
	// AtMost: Bound is an upper bound.
	AtMost bool `json:"at_most"`
	Met    bool `json:"met"`
}

// ratioGoals are the least ratios of orders that one peer serves to those of another.
var ratioGoals = []struct {
	what, a, b, load string
	replicas         int
	least            float64
}{
	{"etcd by noop, hot SKU", ours, noop, hotLoad, StandardReplicas, 0.62},
	{"etcd by redis-lua, hot SKU", ours, "redis-lua", hotLoad, StandardReplicas, 1},
	{"etcd by conditional-batched, hot SKU", ours, peer.Batched, hotLoad, StandardReplicas, 0.95},
	{"etcd by the best durable SQL peer that does not batch (%s), hot SKU", ours, bestSQL, hotLoad, StandardReplicas, 10},
	{"etcd by etcd-textbook, hot SKU", ours, "etcd-textbook", hotLoad, StandardReplicas, 50},
	{"etcd by conditional, even:100", ours, "conditional", "even:100", StandardReplicas, 3.5},
	{"etcd by conditional, even:1000", ours, "conditional", "even:1000", StandardReplicas, 2.5},
	{"etcd by noop, sold-out", ours, noop, "sold-out", StandardReplicas, 0.85},
	{"etcd by noop, hot SKU, 4 replicas", ours, noop, hotLoad, manyReplicas, 0.6},
}

const (
	// ours is the peer that the goals are about.
	ours = "etcd"
	// bestSQL stands for the fastest peer on MySQL that neither batches nor uses etcd.
	bestSQL = "best SQL"
	// The other goals are a replica's memory, and p99 in an open loop.
	maxReplicaMiB = 120
	maxOpenP99    = 20
)

func goals(all []Median) []Goal {
	list := []Goal{}
	for _, g := range ratioGoals {
		s := Setting{Load: g.load, Replicas: g.replicas}
		a, b, what := find(all, g.a, s), find(all, g.b, s), g.what
		if a == nil || b == nil || b.Served == 0 {
			continue
		}
		if g.b == bestSQL {
			what = fmt.Sprintf(g.what, b.Peer)
		}
		got := round(a.Served/b.Served, 100)
		list = append(list, Goal{What: what, Bound: g.least, Got: got, Met: got >= g.least})
	}
	if m := find(all, ours, Setting{Load: hotLoad, Replicas: StandardReplicas}); m != nil {
		mib := m.RSS["replicas"]
		list = append(list, Goal{What: "MiB of a replica of etcd, hot SKU", Bound: maxReplicaMiB, Got: mib, AtMost: true, Met: mib <= maxReplicaMiB})
	}
	open := Setting{Load: hotLoad, Replicas: StandardReplicas, Open: true}
	if a, b := find(all, ours, open), find(all, noop, open); a != nil && b != nil {
		g := Goal{What: "p99 of etcd in an open loop, in ms", Bound: maxOpenP99, Got: a.Latency.P99, AtMost: true}
		g.Met = g.Got <= g.Bound && a.Rate >= b.Rate
		if a.Rate < b.Rate {
			g.What += fmt.Sprintf(" (at %d/s, which is less than noop's %d/s)", a.Rate, b.Rate)
		}
		list = append(list, g)
	}
	return list
}

func find(all []Median, name string, s Setting) (found *Median) {
	for i := range all {
		m := &all[i]
		if m.Setting != s || (m.Peer != name && name != bestSQL) {
			continue
		}
		if name == bestSQL {
			p, err := peer.Find(m.Peer)
			if err != nil || p.Store != peer.MySQL || p.Etcd || p.Name == peer.Batched || (found != nil && found.Served >= m.Served) {
				continue
			}
		}
		found = m
	}
	return found
}

// round rounds to a multiple of 1/part.
func round(v, part float64) float64 { return math.Round(v*part) / part }
