package lab

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/lockserver"
	"flashsale/loadtest/proof"
)

// Defaults oversell under the left strategy, and end within seconds.
var Defaults = Setting{
	Strategy: "none", Against: strategy.Default, Fence: strategy.FenceClaim, Replicas: 2, Units: 20, Buyers: 200, Rate: 100, ThinkMS: 20, Fault: noFault,
}

// Options are what can be chosen for a run.
type Options struct {
	Strategies []StrategyOption `json:"strategies"`
	Fences     []FenceOption    `json:"fences"`
	Faults     []FaultOption    `json:"faults"`
	Bounds     map[string]Bound `json:"bounds"`
	Defaults   Setting          `json:"defaults"`
}

// StrategyOption is a strategy.
type StrategyOption struct {
	Name  string `json:"name"`
	Shows string `json:"shows"`
	// Token: a fence can be chosen.
	Token  bool            `json:"token"`
	Server strategy.Server `json:"server"`
	// Missing says what has to be installed first, or is "".
	Missing string `json:"missing"`
}

// FenceOption is a fence.
type FenceOption struct {
	Name  strategy.Fence `json:"name"`
	Shows string         `json:"shows"`
}

// FaultOption is a fault.
type FaultOption struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	Shows string `json:"shows"`
	// Strategies can have this fault.
	Strategies []string `json:"strategies"`
	// Replicas is the least number of replicas, and Seconds the least time for which orders
	// have to come: Buyers divided by Rate.
	Replicas int     `json:"replicas"`
	Seconds  float64 `json:"seconds"`
}

// Bound is the least and the largest value of a number.
type Bound struct {
	Min int64 `json:"min"`
	Max int64 `json:"max"`
}

// bounds keep a run within one machine: its memory, its connections and a teacher's
// patience.
var bounds = map[string]Bound{
	"replicas": {1, 5}, "units": {1, 100_000}, "buyers": {1, 50_000}, "rate": {1, 5_000}, "think_ms": {0, 2_000}, "seed": {0, 1<<32 - 1},
}

// maxLoad bounds the time for which orders come.
const maxLoad = 2 * time.Minute

var fences = []FenceOption{
	{strategy.FenceOff, "MySQL ignores the lock's tokens"},
	{strategy.FenceWrite, "MySQL compares the token with each write; a late write is accepted until the newer token has written"},
	{strategy.FenceClaim, "MySQL stores the token before the stock is read, and refuses every older one"},
}

func (s *Server) options(w http.ResponseWriter, _ *http.Request) {
	o := Options{Fences: fences, Bounds: bounds, Defaults: Defaults}
	for _, row := range strategy.All() {
		o.Strategies = append(o.Strategies, StrategyOption{Name: row.Name, Shows: row.Shows, Token: row.Token, Server: row.Server, Missing: missing(row)})
	}
	for _, f := range faults {
		option := FaultOption{Name: f.name, Title: f.title, Shows: f.shows, Replicas: max(1, f.replicas), Seconds: f.least().Seconds()}
		for _, row := range strategy.All() {
			if f.unfit(row) == "" {
				option.Strategies = append(option.Strategies, row.Name)
			}
		}
		o.Faults = append(o.Faults, option)
	}
	answer(w, http.StatusOK, o)
}

func missing(row strategy.Strategy) string {
	if err := lockserver.Check(row); err != nil {
		return strings.TrimPrefix(err.Error(), row.Name+": ")
	}
	return ""
}

// startRun begins the run of a Setting. Values that the body does not have are defaults.
func (s *Server) startRun(w http.ResponseWriter, r *http.Request) {
	setting := Defaults
	if !decode(w, r, &setting) {
		return
	}
	run, problems := s.plan(setting)
	if len(problems) > 0 {
		first := problems[0]
		first.Problems = problems
		fail(w, http.StatusUnprocessableEntity, &first)
		return
	}
	s.start(w, "run", run.title(), run.do)
}

// plan checks a setting, and completes it.
func (s *Server) plan(setting Setting) (*run, []Problem) {
	c := checker{Setting: setting}
	r := &run{cfg: s.cfg, fault: c.theFault()}
	r.rows = append(r.rows, c.strategy("strategy", setting.Strategy))
	if setting.Against != "" {
		r.rows = append(r.rows, c.strategy("against", setting.Against))
	}
	if _, err := strategy.ParseFence(string(setting.Fence)); err != nil {
		c.add("fence", "%s", err)
	}
	c.numbers()
	if len(c.problems) == 0 {
		c.together(r)
	}
	if c.Seed == 0 {
		c.Seed = 1 + uint64(rand.Uint32())
	}
	r.setting = c.Setting
	return r, c.problems
}

// checker finds what is wrong with a Setting.
type checker struct {
	Setting
	problems []Problem
}

func (c *checker) add(field, format string, args ...any) {
	c.problems = append(c.problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) strategy(field, name string) strategy.Strategy {
	row, err := strategy.Find(name)
	if err != nil {
		c.add(field, "%s", err)
	} else if why := missing(row); why != "" {
		c.add(field, "%s", why)
	}
	return row
}

func (c *checker) theFault() *fault {
	i := slices.IndexFunc(faults, func(f fault) bool { return f.name == c.Fault })
	if i < 0 {
		names := make([]string, len(faults))
		for i := range faults {
			names[i] = faults[i].name
		}
		c.add("fault", "unknown fault %q: one of %s", c.Fault, strings.Join(names, ", "))
		return &faults[0]
	}
	return &faults[i]
}

func (c *checker) numbers() {
	for _, number := range []struct {
		field string
		value int64
	}{
		{"replicas", int64(c.Replicas)}, {"units", c.Units}, {"buyers", int64(c.Buyers)}, {"rate", int64(c.Rate)}, {"think_ms", int64(c.ThinkMS)},
		{"seed", int64(min(c.Seed, 1<<62))},
	} {
		if b := bounds[number.field]; number.value < b.Min || number.value > b.Max {
			c.add(number.field, "must be from %s to %s", proof.Comma(b.Min), proof.Comma(b.Max))
		}
	}
}

// together checks values that are good by themselves.
func (c *checker) together(r *run) {
	for i, field := range []string{"strategy", "against"}[:len(r.rows)] {
		if why := r.fault.unfit(r.rows[i]); why != "" {
			if field == "strategy" {
				field = "fault"
			}
			c.add(field, "%s: %s", r.fault.title, why)
		}
	}
	if c.Replicas < r.fault.replicas {
		c.add("replicas", "must be at least %d: one replica goes on while the fault lasts", r.fault.replicas)
	}
	if c.load() > maxLoad {
		c.add("buyers", "must be at most %s: %d come a second, and the longest run is %s", proof.Comma(int64(maxLoad.Seconds())*int64(c.Rate)), c.Rate, maxLoad)
	}
	if least := r.fault.least(); c.load() < least {
		c.add("buyers", "must be at least %s with this fault: %d come a second, and they have to come for %s", proof.Comma(int64(least.Seconds())*int64(c.Rate)), c.Rate, least)
	}
}

// load is the time for which orders come.
func (c *Setting) load() time.Duration {
	return time.Duration(c.Buyers) * time.Second / time.Duration(c.Rate)
}
