package faults

import (
	"os"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

func TestTimesCountFromTheFault(t *testing.T) {
	const ms = time.Millisecond
	sold := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Accepted, Sent: sent, Done: done}
	}
	refused := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Refused, Sent: sent, Done: done}
	}
	const fault = 100 * ms
	for name, tt := range map[string]struct {
		answers   []attack.Answer
		gap, wait time.Duration
	}{
		"nothing counts before the fault": {[]attack.Answer{sold(0, 90*ms), sold(95*ms, 101*ms), sold(101*ms, 105*ms)}, 4 * ms, 6 * ms},
		"from the fault":                  {[]attack.Answer{sold(0, 50*ms), sold(60*ms, 180*ms), sold(180*ms, 190*ms)}, 80 * ms, 120 * ms},
		"between two sales, in any order": {[]attack.Answer{sold(0, 200*ms), sold(0, 110*ms)}, 90 * ms, 200 * ms},
		"an error is not a sale":          {[]attack.Answer{sold(100*ms, 110*ms), refused(100*ms, 150*ms), sold(110*ms, 160*ms)}, 50 * ms, 50 * ms},
		"no sale until the last answer":   {[]attack.Answer{sold(100*ms, 110*ms), refused(110*ms, 300*ms)}, 190 * ms, 190 * ms},
		"no sale at all":                  {[]attack.Answer{sold(0, 90*ms)}, 0, 0},
	} {
		if gap, wait := attack.LongestGap(tt.answers, fault), attack.LongestWait(tt.answers, fault); gap != tt.gap || wait != tt.wait {
			t.Errorf("%s: gap %s, wait %s; want %s, %s", name, gap, wait, tt.gap, tt.wait)
		}
	}
}

// TestFiguresAreOKOnlyIfAllIs: a violation, a median that is too long, and a mutant that
// survived each spoil the whole.
func TestFiguresAreOKOnlyIfAllIs(t *testing.T) {
	fine := Result{Name: "seller-killed", OK: true, NoSaleMS: 100}
	slow := Result{Name: "seller-killed", OK: true, NoSaleMS: 301}
	caught, survived := MutantResult{Name: "m", Violation: "v"}, MutantResult{Name: "m"}
	for name, tt := range map[string]struct {
		figures Figures
		ok      bool
	}{
		"nothing ran":                 {Figures{}, false},
		"fine":                        {Figures{Scenarios: []Result{fine}}, true},
		"a violation":                 {Figures{Scenarios: []Result{fine, {Name: "chaos", Violations: []string{"lost"}}}}, false},
		"two slow runs are no median": {Figures{Scenarios: []Result{slow, slow}}, true},
		"a slow median":               {Figures{Scenarios: []Result{slow, fine, slow}}, false},
		"one slow run of three":       {Figures{Scenarios: []Result{slow, fine, fine}}, true},
		"slow without a goal":         {Figures{Scenarios: []Result{{Name: "mysql-killed", OK: true, NoSaleMS: 9e3}, {Name: "mysql-killed", OK: true, NoSaleMS: 9e3}, {Name: "mysql-killed", OK: true, NoSaleMS: 9e3}}}, true},
		"a mutant is caught":          {Figures{Mutants: []MutantResult{caught}}, true},
		"a mutant survives":           {Figures{Mutants: []MutantResult{caught, survived}}, false},
	} {
		if tt.figures.Settle(); tt.figures.OK != tt.ok {
			t.Errorf("%s: OK is %v", name, tt.figures.OK)
		}
	}
}

func TestNoFaultExcusesA500(t *testing.T) {
	answers, silent := &run{Config: Config{Scenario: &Scenario{}}}, &run{Config: Config{Scenario: &Scenario{silent: true}}}
	for _, tt := range []struct {
		reason          proof.Reason
		answers, silent bool
	}{
		{proof.Reason{Status: 500, Slug: "internal"}, false, false}, {proof.Reason{Status: 429}, false, false}, {proof.Reason{Status: 401}, false, false},
		{proof.Reason{Status: 503}, true, true}, {proof.Reason{Status: 504}, true, true}, {proof.Reason{Slug: "connection reset"}, false, true},
	} {
		if a, b := answers.excuses(tt.reason), silent.excuses(tt.reason); a != tt.answers || b != tt.silent {
			t.Errorf("%+v: excused %v, and %v if a replica may not answer; want %v and %v", tt.reason, a, b, tt.answers, tt.silent)
		}
	}
}

func TestScenariosAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range All() {
		if seen[s.Name] || s.Injects == "" || (s.sequence == nil) == (s.inject == nil || s.heal == nil) {
			t.Errorf("%s: is there twice, says nothing, or has no fault: %+v", s.Name, s)
		}
		if s.chaos && (s.needs.databases > 1 || s.needs.disk > 0 || s.needs.quota > 0 || s.needs.clocks || s.needs.delays) {
			t.Errorf("%s is in chaos, which does not have the servers that it needs", s.Name)
		}
		seen[s.Name] = true
	}
	if _, err := Find([]string{"seller-killed", "nope"}); err == nil || !strings.Contains(err.Error(), `unknown scenario "nope": must be one of seller-killed, `) {
		t.Errorf("got %v", err)
	}
}

// TestShortList makes one run of each scenario of the short list. Times are logged and not
// checked: other tests run at the same time.
func TestShortList(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	network, why := sandbox.BestNetwork()
	if why != "" {
		t.Logf("links are cut by %s: %s", network, why)
	}
	cfg := Config{API: sandboxtest.Build(t, "api"), EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}, Network: network, LockTTL: 2 * time.Second, Rate: 200, Buyers: 2048, Mixed: 60, Seed: uint64(os.Getpid())}
	for _, s := range Short() {
		cfg.Scenario = &s
		cfg.Seed++
		result, err := Run(t.Context(), cfg)
		t.Log(&result)
		if err != nil || len(result.Wrong) > 0 {
			t.Errorf("%s: %v %q", s.Name, err, result.Wrong)
		}
	}
}
