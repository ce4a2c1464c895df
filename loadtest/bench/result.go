package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/peer"
	"flashsale/loadtest/proof"
)

// Result is everything that came of a bench. As JSON it is out/bench.json.
type Result struct {
	Runs    []Run    `json:"runs"`
	Medians []Median `json:"medians"`
	Goals   []Goal   `json:"goals"`
	Seed    uint64   `json:"seed"`
	// Proven: every run of a guarded peer had its expected verdict.
	Proven bool `json:"proven"`
	// Peers are those that ran; Tuning is how each was run, and why.
	Peers  []peer.Peer `json:"peers"`
	Tuning []Tuned     `json:"tuning"`
	// Database is the product with its version.
	Database string `json:"database"`
	// MySQL is the server's settings, MySQLBinlog those of the runs with one.
	MySQL       map[string]string `json:"mysql_settings"`
	MySQLBinlog map[string]string `json:"mysql_settings_binlog,omitempty"`
	Machine     Machine           `json:"machine"`
	// Notes are what a reader should know before relying on the figures.
	Notes []string `json:"notes"`
	// Took is how long all of it took, in seconds.
	Took float64 `json:"took_seconds"`
}

// Setting is what the runs that are compared have in common.
type Setting struct {
	Load     string `json:"load"`
	Replicas int    `json:"replicas"`
	Binlog   bool   `json:"binlog"`
	// Open: requests come at a rate, whether they are answered or not. Else each
	// worker waits for its answer.
	Open bool `json:"open_loop"`
}

// Run is one peer's, in one setting and one round. Its counts and its audit are
// over the whole run; its rates and latencies over the window after the warm-up.
type Run struct {
	proof.Run
	Load    string `json:"load"`
	Open    bool   `json:"open_loop"`
	Workers int    `json:"workers"` // of a closed loop
	Round   int    `json:"round"`
	Binlog  bool   `json:"binlog"`
	// Durable: what was promised survives the loss of power.
	Durable bool `json:"durable"`
	// How it was run, and what checked it.
	How       string `json:"how"`
	CheckedBy string `json:"checked_by"`
	// Served is the orders and the refusals for want of stock, a second.
	Served float64 `json:"served_per_second"`
	// RatioToNoop is Served by that of noop, in the same setting and round. With
	// no noop there it is 0.
	RatioToNoop float64 `json:"ratio_to_noop"`
	// CPU is in microseconds an answer that counts in Served, by kind of process;
	// RSS is the peak of the largest process of each kind.
	CPU map[string]float64 `json:"cpu_us_per_order"`
	RSS map[string]float64 `json:"rss_mib"`
}

func (r *Run) setting() Setting {
	return Setting{Load: r.Load, Replicas: r.Replicas, Binlog: r.Binlog, Open: r.Open}
}

// Median is a peer's in one setting, over the rounds: each figure is the median
// of that figure.
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
	// Verdict is the worst.
	Verdict strategy.Verdict `json:"verdict"`
}

// measured replaces what proof counts over all answers by what was in the window.
func (r *Run) measured(t *taken, total time.Duration, used map[string]usage) {
	answers, latencies := t.inWindow()
	window := (t.to - t.from).Seconds()
	accepted, served := 0, 0
	for i := range answers {
		switch answers[i].Outcome {
		case attack.Accepted:
			accepted++
			served++
		case attack.SoldOut:
			served++
		case attack.Ambiguous, attack.Refused:
		}
	}
	r.Throughput = float64(len(answers)) / window
	r.AcceptedPerSecond = float64(accepted) / window
	r.Served = float64(served) / window
	r.AchievedRate = float64(len(t.answers)) / total.Seconds()
	r.Latency, r.Curve = proof.LatencyOf(latencies), proof.CurveOf(latencies)
	r.CPU, r.RSS = map[string]float64{}, map[string]float64{}
	for name, u := range used {
		if served > 0 {
			r.CPU[name] = round(float64(u.cpu.Microseconds())/float64(served), 10)
		}
		r.RSS[name] = round(float64(u.peakRSS)/(1<<20), 10)
	}
}

// settle works out the ratios, the medians and whether all is as it must be.
func (r *Result) settle() {
	r.Proven = len(r.Runs) > 0
	ceiling := map[inRound]float64{}
	for i := range r.Runs {
		run := &r.Runs[i]
		r.Proven = r.Proven && run.Verdict == run.Expected
		if run.Strategy == noop {
			ceiling[run.inRound()] = run.Served
		}
	}
	for i := range r.Runs {
		run := &r.Runs[i]
		if most := ceiling[run.inRound()]; most > 0 {
			run.RatioToNoop = round(run.Served/most, 1e4)
		}
	}
	r.Medians = medians(r.Runs)
	r.Goals = goals(r.Medians)
}

// noop is the peer that the others are compared with.
const noop = "noop"

type inRound struct {
	Setting
	round int
}

// inRound is where its noop is found. A noop knows no binlog.
func (r *Run) inRound() inRound {
	s := r.setting()
	s.Binlog = false
	return inRound{s, r.Round}
}

// medians are in the order in which peer and setting first ran.
func medians(runs []Run) []Median {
	type key struct {
		peer string
		Setting
	}
	var order []key
	groups := map[key][]*Run{}
	for i := range runs {
		k := key{runs[i].Strategy, runs[i].setting()}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], &runs[i])
	}
	list := make([]Median, 0, len(order))
	for _, k := range order {
		group := groups[k]
		of := func(figure func(*Run) float64) float64 {
			values := make([]float64, len(group))
			for i, run := range group {
				values[i] = figure(run)
			}
			return median(values)
		}
		m := Median{
			Peer: k.peer, Setting: k.Setting, Durable: group[0].Durable, Rounds: len(group), Rate: group[0].Rate, Workers: group[0].Workers, How: group[0].How,
			Served: of(func(r *Run) float64 { return r.Served }), RatioToNoop: of(func(r *Run) float64 { return r.RatioToNoop }),
			Latency: proof.Latency{
				P50: of(func(r *Run) float64 { return r.Latency.P50 }), P95: of(func(r *Run) float64 { return r.Latency.P95 }),
				P99: of(func(r *Run) float64 { return r.Latency.P99 }), Max: of(func(r *Run) float64 { return r.Latency.Max }),
			},
			CPU: map[string]float64{}, RSS: map[string]float64{}, Verdict: group[0].Verdict,
			Least: math.Inf(1),
		}
		for _, run := range group {
			m.Least, m.Most = min(m.Least, run.Served), max(m.Most, run.Served)
			if run.Verdict != run.Expected {
				m.Verdict = run.Verdict
			}
		}
		for name := range group[0].CPU {
			m.CPU[name] = of(func(r *Run) float64 { return r.CPU[name] })
			m.RSS[name] = of(func(r *Run) float64 { return r.RSS[name] })
		}
		list = append(list, m)
	}
	return list
}

// median is the middle value, or the mean of the middle two.
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

// Goal is a ratio that is wanted of the service, and what came out.
type Goal struct {
	What   string  `json:"what"`
	Wanted float64 `json:"wanted"`
	Got    float64 `json:"got"`
	// AtMost: Wanted is an upper bound.
	AtMost bool `json:"at_most"`
	Met    bool `json:"met"`
}

// goals are those for which both sides ran.
func goals(all []Median) []Goal {
	find := func(name string, s Setting) *Median {
		for i := range all {
			if all[i].Peer == name && all[i].Setting == s {
				return &all[i]
			}
		}
		return nil
	}
	const ours = "etcd"
	at := func(load string, replicas int) Setting { return Setting{Load: load, Replicas: replicas} }
	var list []Goal
	ratio := func(what string, wanted float64, a, b *Median) {
		if a != nil && b != nil && b.Served > 0 {
			got := round(a.Served/b.Served, 100)
			list = append(list, Goal{What: what, Wanted: wanted, Got: got, Met: got >= wanted})
		}
	}
	hot := at("hot", StandardReplicas)
	etcd := find(ours, hot)
	ratio("etcd by noop, hot SKU", 0.62, etcd, find(noop, hot))
	ratio("etcd by redis-lua, hot SKU", 1, etcd, find("redis-lua", hot))
	ratio("etcd by conditional-batched, hot SKU", 0.95, etcd, find(peer.Batched, hot))
	if best := bestSQL(all, hot); best != nil {
		ratio("etcd by the best durable SQL peer that does not batch ("+best.Peer+"), hot SKU", 10, etcd, best)
	}
	if etcd != nil {
		list = append(list, Goal{What: "MiB of a replica of etcd, hot SKU", Wanted: 120, Got: etcd.RSS["replicas"], AtMost: true, Met: etcd.RSS["replicas"] <= 120})
	}
	ratio("etcd by etcd-textbook, hot SKU", 50, etcd, find("etcd-textbook", hot))
	for _, g := range []struct {
		load   string
		wanted float64
	}{{"even:100", 3.5}, {"even:1000", 2.5}} {
		s := at(g.load, StandardReplicas)
		ratio("etcd by conditional, "+g.load, g.wanted, find(ours, s), find("conditional", s))
	}
	s := at("sold-out", StandardReplicas)
	ratio("etcd by noop, sold-out", 0.85, find(ours, s), find(noop, s))
	ratio("etcd by noop, hot SKU, 4 replicas", 0.6, find(ours, at("hot", 4)), find(noop, at("hot", 4)))
	open := Setting{Load: "hot", Replicas: StandardReplicas, Open: true}
	if a, b := find(ours, open), find(noop, open); a != nil && b != nil {
		g := Goal{What: "p99 of etcd in an open loop, in ms", Wanted: 20, Got: a.Latency.P99, AtMost: true}
		g.Met = g.Got <= g.Wanted && a.Rate >= b.Rate
		if a.Rate < b.Rate {
			g.What += fmt.Sprintf(" (at %d/s, which is less than noop's %d/s)", a.Rate, b.Rate)
		}
		list = append(list, g)
	}
	return list
}

// bestSQL is the fastest durable peer on MySQL that neither batches nor takes a lock
// in etcd.
func bestSQL(all []Median, s Setting) *Median {
	var list []*Median
	for i := range all {
		p, err := peer.Find(all[i].Peer)
		if err == nil && p.Store == peer.MySQL && !p.Etcd && p.Name != peer.Batched && all[i].Setting == s {
			list = append(list, &all[i])
		}
	}
	if len(list) == 0 {
		return nil
	}
	return slices.MaxFunc(list, func(a, b *Median) int { return cmp.Compare(a.Served, b.Served) })
}

// round keeps 1/part.
func round(v, part float64) float64 { return math.Round(v*part) / part }
