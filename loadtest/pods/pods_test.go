package pods

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

// All of it, on a real node: what make kubernetes does.
func TestSalesOnKubernetes(t *testing.T) {
	sandboxtest.NeedsNode(t)
	api := filepath.Join(t.TempDir(), "api")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", api, "./cmd/api")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	result, err := Run(t.Context(), Config{API: api, Seed: 1, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if err := result.Write(t.Output()); err != nil {
		t.Fatal(err)
	}
	if !result.OK || len(result.Sales) != len(sales) {
		t.Errorf("%d sales, want %d, each without a violation", len(result.Sales), len(sales))
	}
}

func TestViolationsAreFound(t *testing.T) {
	t.Parallel()
	exact := proof.Run{Strategy: "etcd", Stock: plenty, Verdict: strategy.Exact, Expected: strategy.Exact,
		Counts: proof.Counts{Offered: 1000, Accepted: 1000}, Findings: proof.Findings{UnitsSold: 1000, Available: plenty - 1000}}
	reason := func(status int, slug string) func(*Sale) {
		return func(s *Sale) {
			s.Accepted, s.Errors, s.Reasons = 999, 1, []proof.Reason{{Status: status, Slug: slug, Count: 1}}
		}
	}
	for name, tt := range map[string]struct {
		during *disturbance
		spoil  func(*Sale)
		found  int
	}{
		"nothing":                          {&update, func(*Sale) {}, 0},
		"a few refusals":                   {&update, reason(http.StatusServiceUnavailable, "unavailable"), 0},
		"many refusals":                    {&update, func(s *Sale) { s.Accepted, s.Errors = 990, 10 }, 1},
		"a refusal that does not say when": {&update, reason(http.StatusServiceUnavailable, "unavailable, without Retry-After"), 1},
		"an unknown outcome of an update":  {&update, reason(http.StatusGatewayTimeout, "unknown-outcome"), 1},
		"an unknown outcome of a fault":    {&primaryDeleted, reason(http.StatusGatewayTimeout, "unknown-outcome"), 0},
		"a broken connection":              {&primaryDeleted, reason(0, "connection closed"), 1},
		"sold out":                         {&update, func(s *Sale) { s.SoldOut = 1 }, 1},
		"oversold":                         {&update, func(s *Sale) { s.Oversold = 1 }, 1},
		"a long gap":                       {&primaryDeleted, func(s *Sale) { s.NoSaleMS = 31_000 }, 1},
		"errors instead of a sale":         {nil, func(s *Sale) { s.Verdict = strategy.Failed }, 1},
		"a replica outlives the load":      {&update, func(s *Sale) { s.Ending = []string{"flashsale-1"} }, 1},
	} {
		sale := Sale{Run: exact}
		tt.spoil(&sale)
		sale.judge(tt.during, contended(proof.ContendedBursts))
		if len(sale.Violations) != tt.found {
			t.Errorf("%s: %q, want %d", name, sale.Violations, tt.found)
		}
	}
}

func TestSaleIsExactOnlyAfterAChallenge(t *testing.T) {
	t.Parallel()
	for _, during := range []*disturbance{nil, &update} {
		for bursts, want := range map[int]strategy.Verdict{
			proof.ContendedBursts: strategy.Exact, proof.ContendedBursts - 1: strategy.NotChallenged,
		} {
			sale := Sale{Run: proof.Run{Verdict: strategy.Exact, Expected: strategy.Exact,
				Counts: proof.Counts{Offered: 10, Accepted: 10}, Findings: proof.Findings{UnitsSold: 10}}}
			sale.judge(during, contended(bursts))
			if found := len(sale.Violations) > 0; sale.Verdict != want || found != (want != strategy.Exact) {
				t.Errorf("%d contended bursts: %s, %q; want %s", bursts, sale.Verdict, sale.Violations, want)
			}
		}
	}
}

// contended is a challenge that broke nothing.
func contended(bursts int) *proof.Challenge {
	return &proof.Challenge{Contended: bursts, Needed: proof.ContendedBursts, Outcome: proof.Outcome{Verdict: strategy.Exact}}
}

func TestOtherStrategiesDifferInThreeThingsOnly(t *testing.T) {
	t.Parallel()
	const spec = `{"selector":{"app.kubernetes.io/name":"flashsale"},"labels":{"app.kubernetes.io/name":"flashsale"},` +
		`"env":[{"name":"FLASHSALE_MYSQL_DSN","value":"flashsale:$(MYSQL_PASSWORD)@tcp($(MYSQL_HOSTS))/flashsale"}],"from":{"name":"flashsale"}}`
	const want = `{"selector":{"app.kubernetes.io/name":"flashsale-zookeeper"},"labels":{"app.kubernetes.io/name":"flashsale-zookeeper"},` +
		`"env":[{"name":"FLASHSALE_STRATEGY","value":"zookeeper"},{"name":"FLASHSALE_MYSQL_DSN","value":"flashsale:$(MYSQL_PASSWORD)@tcp($(MYSQL_HOSTS))/flashsale_zookeeper"}],"from":{"name":"flashsale"}}`
	s := shop{strategy: "zookeeper", name: "flashsale-zookeeper"}
	if got, err := s.specOf(spec); got != want || err != nil {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	for _, gone := range []string{`"app.kubernetes.io/name"`, `$(MYSQL_HOSTS)`, `"env"`} {
		if got, err := s.specOf(strings.ReplaceAll(spec, gone, "")); err == nil {
			t.Errorf("without %s: %s", gone, got)
		}
	}
}

func TestAccountsGetTheSameRightsInAnotherDatabase(t *testing.T) {
	t.Parallel()
	const shown = "GRANT PROCESS ON *.* TO `flashsale`@`%`\nGRANT SELECT, INSERT ON `flashsale`.* TO `flashsale`@`%`\nGRANT CREATE ON `flashsale`.* TO `flashsale_owner`@`%`\n"
	const want = "GRANT SELECT, INSERT ON `flashsale_zookeeper`.* TO `flashsale`@`%`;GRANT CREATE ON `flashsale_zookeeper`.* TO `flashsale_owner`@`%`;"
	if got := grantsFor(databaseOf("zookeeper"), shown); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
