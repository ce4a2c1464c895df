package failover

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// TestNothingIsLostWhenADatabaseServerFails plays each fault once. The times are
// printed and not judged: they are of a machine that also runs other tests.
func TestNothingIsLostWhenADatabaseServerFails(t *testing.T) {
	root := os.Geteuid() == 0
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, MySQLNodes: 3, OwnHosts: root, EtcdNodes: 1})
	const name = "flashsale"
	dsn, err := stack.CreateDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Cluster: stack.Cluster, Name: name, AdminToken: sandbox.Secret(), JWTSecret: sandbox.Secret(), Rate: 50, Buyers: 16}
	for i := range 3 {
		cfg.Replicas = append(cfg.Replicas, sandboxtest.StartReplica(t, sandbox.ReplicaConfig{
			Replica: fmt.Sprintf("replica-%d", i+1), MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(),
			AdminToken: cfg.AdminToken, JWTSecret: cfg.JWTSecret, Args: []string{"--log-level=warn"},
		}))
	}
	if stack.MySQL.Product == sandbox.MariaDB {
		refusesLocksOfOneNode(t, stack, cfg)
	}
	for i, fault := range faults {
		if fault.OwnHosts && !root {
			t.Logf("%s is for root", fault.Name)
			continue
		}
		cfg.Fault, cfg.SKU, cfg.Seed = fault, fault.Name, uint64(i+1)<<24
		result, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", fault.Name, err)
		}
		t.Logf("%s: %s", stack.Database(), &result)
		if !result.OK() || result.Paid == 0 {
			t.Errorf("%s: %+v", fault.Name, result)
		}
	}
}

// refusesLocksOfOneNode: on two nodes of Galera, such a lock is held twice.
func refusesLocksOfOneNode(t *testing.T, stack *sandbox.Stack, cfg Config) {
	t.Helper()
	dsn, err := stack.CreateDatabase(t.Context(), "locks")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"get-lock", "lock-row"} {
		r, err := sandbox.StartReplica(t.Context(), sandbox.ReplicaConfig{
			Program: sandboxtest.Build(t, "api"), Replica: name, Strategy: name, MySQLDSN: dsn, AdminToken: cfg.AdminToken, JWTSecret: cfg.JWTSecret,
		})
		if err == nil {
			r.Kill()
		}
		if want := "--strategy " + name + " is not right here: 3 servers of this MySQL cluster take writes"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s on three nodes of Galera: got %v, want an error with %q", name, err, want)
		}
	}
}

func TestTimesCountFromTheFault(t *testing.T) {
	const ms = time.Millisecond
	sold := func(sent, done time.Duration) attack.Answer {
		return attack.Answer{Outcome: attack.Accepted, Sent: sent, Done: done}
	}
	const fault = 100 * ms
	for name, tt := range map[string]struct {
		answers    []attack.Answer
		first, gap time.Duration
	}{
		"a sale that was under way":     {[]attack.Answer{sold(0, 50*ms), sold(90*ms, 110*ms), sold(105*ms, 150*ms)}, 50 * ms, 40 * ms},
		"a later gap":                   {[]attack.Answer{sold(100*ms, 110*ms), sold(0, 300*ms), sold(110*ms, 310*ms)}, 10 * ms, 190 * ms},
		"an error is no sale":           {[]attack.Answer{{Outcome: attack.Refused, Sent: 100 * ms, Done: 110 * ms}, sold(100*ms, 160*ms)}, 60 * ms, 60 * ms},
		"nothing is sold after a fault": {[]attack.Answer{sold(0, 90*ms)}, 0, 0},
	} {
		if first, gap := salesAfter(tt.answers, fault); first != tt.first || gap != tt.gap {
			t.Errorf("%s: first %s, gap %s; want %s, %s", name, first, gap, tt.first, tt.gap)
		}
	}
}

func TestFiguresTellLossesFromSlowRuns(t *testing.T) {
	exact := Result{Fault: "kill", WritableMS: 6000, OrdersMS: 6500, GapMS: 6500, Verdict: strategy.Exact}
	slow, late, lost, wrong := exact, exact, exact, exact
	slow.GapMS, late.OrdersMS, lost.Lost = 10_001, 7001, 1
	wrong.Payments = []proof.Reason{{Status: http.StatusInternalServerError, Count: 1}}
	wrong.Wrong = 1
	for name, tt := range map[string]struct {
		result      Result
		ok, goalMet bool
	}{
		"as it should be":        {exact, true, true},
		"no sale for too long":   {slow, true, false},
		"late after the primary": {late, true, false},
		"a lost order":           {lost, false, true},
		"a wrong answer":         {wrong, false, true},
	} {
		f := Figures{Product: sandbox.RealMySQL}
		f.Add(exact)
		if f.Add(tt.result); f.OK != tt.ok || f.GoalMet != tt.goalMet {
			t.Errorf("%s: OK %v, goal met %v; want %v, %v", name, f.OK, f.GoalMet, tt.ok, tt.goalMet)
		}
	}
}

// TestPaymentThatIsNotInTheBooksIsLost: what was answered 200 counts, whatever the
// order's row says of itself.
func TestPaymentThatIsNotInTheBooksIsLost(t *testing.T) {
	paid, reserved, other := uuid.New(), uuid.New(), uuid.New()
	books := proof.Records{Rows: []proof.Row{{ID: paid, Status: "paid"}, {ID: reserved, Status: "reserved"}, {ID: other, Status: "reserved"}}}
	got := unpaid(map[uuid.UUID]bool{paid: true, reserved: true}, &books)
	if len(got) != 1 || !strings.Contains(got[0], reserved.String()) {
		t.Errorf("got %q, want the order %s alone", got, reserved)
	}
}

func TestUnknownFaultIsNamed(t *testing.T) {
	if _, err := FindFaults([]string{"kill", "bored"}); err == nil || !strings.Contains(err.Error(), `unknown fault "bored": one of kill, switch, cut, majority`) {
		t.Errorf("got %v", err)
	}
}
