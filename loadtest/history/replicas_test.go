package history_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/sleep"
	"flashsale/loadtest/history"
)

// traffic puts calls on two replicas of that configuration for a while and checks them.
func traffic(t *testing.T, cfg sandbox.ReplicaConfig, name string, rate int, d time.Duration) (*history.History, history.Report) {
	t.Helper()
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	var err error
	if cfg.MySQLDSN, err = stack.CreateDatabase(t.Context(), "history"); err != nil {
		t.Fatal(err)
	}
	cfg.EtcdEndpoints = stack.EtcdEndpoints()
	fleet := sandboxtest.StartFleet(t, cfg, 2)
	answers := map[string]int{}
	load, err := history.Start(t.Context(), history.Config{
		URLs: fleet.URLs(), AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret, Name: name, Rate: rate, Seed: 1,
		OnAnswer: func(a history.Answer) { answers[string(a.Kind)+" "+strings.TrimSpace(statusText(a))]++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	err = sleep.For(t.Context(), d)
	h := load.Stop()
	if err != nil {
		t.Fatal(err)
	}
	report, err := h.Check(t.Context(), cfg.MySQLDSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls of %d SKUs at %d/s, %d without an answer, checked in %.0f ms (the slowest SKU %.0f ms): %v",
		report.Calls, report.SKUs, rate, report.Ambiguous, report.CheckMS, report.SlowestMS, answers)
	return h, report
}

func statusText(a history.Answer) string {
	switch a.Status {
	case 0:
		return "no answer"
	case 200, 201:
		return "ok"
	}
	return a.Reason
}

func TestReplicasAreLinearizable(t *testing.T) {
	_, report := traffic(t, sandbox.ReplicaConfig{}, "exact", 100, 10*time.Second)
	if len(report.Violations) > 0 {
		t.Errorf("got violations:\n%s", strings.Join(report.Violations, "\n"))
	}
	if report.Calls < 900 || report.Ambiguous == 0 {
		t.Errorf("got %d calls, %d of them without an answer; want more of both", report.Calls, report.Ambiguous)
	}
}

func TestUnguardedReplicasAreNotLinearizable(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory: 5 seconds of a broken strategy")
	h, report := traffic(t, sandbox.ReplicaConfig{Strategy: "none", Args: []string{"--think-time=20ms"}}, "broken", 100, 5*time.Second)
	if len(report.Violations) == 0 {
		t.Fatal("the strategy none passed the check")
	}
	t.Logf("the first of %d violations:\n%s", len(report.Violations), report.Violations[0])
	paths, err := h.Visualize(t.TempDir())
	if err != nil || len(paths) == 0 {
		t.Fatalf("got pictures %q and error %v", paths, err)
	}
	for _, path := range paths {
		if page, err := os.ReadFile(path); err != nil || !strings.Contains(string(page), "units are available") {
			t.Errorf("%s is no picture of a history: %v", path, err)
		}
	}
}
