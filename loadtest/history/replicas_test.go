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
	cfg.EtcdEndpoints, cfg.Args = stack.EtcdEndpoints(), append(cfg.Args, sandbox.FewCustomers...)
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

// TestBrokenReplicasAreNotLinearizable runs a strategy that oversells, and one that is
// right but for a mistake that leaves the database in order: it refuses the last units.
func TestBrokenReplicasAreNotLinearizable(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory: a broken strategy and a program built with a mistake")
	const file = "internal/order/sell.go"
	text, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	const decides = "case left < n:"
	if strings.Count(string(text), decides) != 1 {
		t.Fatalf("%s has not once %q", file, decides)
	}
	mistaken := sandboxtest.BuildChanged(t, "api", map[string]string{file: strings.Replace(string(text), decides, "case left <= n:", 1)})
	for name, cfg := range map[string]sandbox.ReplicaConfig{
		"oversells":              {Strategy: "none", Args: []string{"--think-time=20ms"}},
		"refuses-the-last-units": {Program: mistaken},
	} {
		t.Run(name, func(t *testing.T) {
			h, report := traffic(t, cfg, name, 100, 5*time.Second)
			if len(report.Violations) == 0 {
				t.Fatal("broken replicas passed the check")
			}
			t.Logf("the first of %d violations:\n%s", len(report.Violations), report.Violations[0])
			paths, err := h.Visualize(t.TempDir())
			if err != nil || len(paths) == 0 {
				t.Fatalf("got pictures %q and error %v", paths, err)
			}
			for _, path := range paths {
				if page, err := os.ReadFile(path); err != nil || !strings.Contains(string(page), "PartialLinearizations") {
					t.Errorf("%s is no picture of a history: %v", path, err)
				}
			}
		})
	}
}
