package proof

import (
	"fmt"
	"strings"
)

// Difference is one figure of a run beside that of an earlier run.
type Difference struct {
	Run, Figure   string
	Before, After float64
	// Mark is "worse" or "better" if the difference is beyond noise, else "".
	Mark string
}

// noise is how much a figure changes from run to run on a machine that does other things
// too: a share of the earlier figure, and at least so much.
type noise struct{ share, least float64 }

// compared are the figures that Compare shows. Of a rate, more is better.
var compared = []struct {
	name string
	rate bool
	noise
	of func(*Run) float64
}{
	{"rate /s", true, noise{0.05, 1}, func(r *Run) float64 { return r.AchievedRate }},
	{"accepted /s", true, noise{0.1, 1}, func(r *Run) float64 { return r.AcceptedPerSecond }},
	{"p50 ms", false, noise{0.25, 1}, func(r *Run) float64 { return r.Latency.P50 }},
	{"p95 ms", false, noise{0.25, 2}, func(r *Run) float64 { return r.Latency.P95 }},
	{"p99 ms", false, noise{0.5, 5}, func(r *Run) float64 { return r.Latency.P99 }},
	{"max ms", false, noise{1, 50}, func(r *Run) float64 { return r.Latency.Max }},
	{"errors %", false, noise{0, 0.1}, func(r *Run) float64 {
		all, errors, ambiguous := r.requests()
		return 100 * float64(errors+ambiguous) / float64(max(1, all))
	}},
}

// Compare compares each run with the earlier run of the same strategy. The notes name
// runs without one, and runs with other settings.
func Compare(before, after *Proof) (list []Difference, notes []string) {
	for i := range after.Runs {
		now := &after.Runs[i]
		name := now.Name()
		old := before.find(now)
		if old == nil {
			notes = append(notes, name+": the earlier result has no such run")
			continue
		}
		if other := otherSettings(old, now); other != "" {
			notes = append(notes, name+": the earlier run differed in "+other)
		}
		for _, figure := range compared {
			d := Difference{Run: name, Figure: figure.name, Before: figure.of(old), After: figure.of(now)}
			change := d.After - d.Before
			if figure.rate {
				change = -change
			}
			switch limit := max(figure.share*d.Before, figure.least); {
			case change > limit:
				d.Mark = "worse"
			case change < -limit:
				d.Mark = "better"
			}
			list = append(list, d)
		}
	}
	return list, notes
}

// find returns the run of the same strategy and fence, one with the same rate if there is.
func (p *Proof) find(r *Run) (found *Run) {
	for i := range p.Runs {
		old := &p.Runs[i]
		if old.Strategy == r.Strategy && old.Fence == r.Fence && (found == nil || old.Rate == r.Rate) {
			found = old
		}
	}
	return found
}

func otherSettings(old, now *Run) string {
	var list []string
	for _, s := range []struct {
		name    string
		was, is any
	}{
		{"rate", old.Rate, now.Rate}, {"replicas", old.Replicas, now.Replicas}, {"SKUs", old.SKUs, now.SKUs}, {"stock", old.Stock, now.Stock},
		{"stages", fmt.Sprint(old.Stages), fmt.Sprint(now.Stages)}, {"calls", callNames(old), callNames(now)},
	} {
		if s.was != s.is {
			list = append(list, fmt.Sprintf("%s (%v, now %v)", s.name, s.was, s.is))
		}
	}
	return strings.Join(list, ", ")
}

func callNames(r *Run) string {
	names := []string{}
	for _, c := range r.Calls {
		names = append(names, c.Call)
	}
	return fmt.Sprint(names)
}
