package main

import (
	"slices"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/proof"
)

// TestReplicasKilledInTurnLoseNothing kills each of three replicas under load and starts
// it again. Requests at that replica get no answer. Apart from those, every row of the
// database must match an answer.
func TestReplicasKilledInTurnLoseNothing(t *testing.T) {
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	dsn, err := stack.MySQL.CreateDatabase(t.Context(), "killed")
	if err != nil {
		t.Fatal(err)
	}
	adminToken, secret := sandbox.Secret(), sandbox.Secret()
	start := func(name, addr string) *sandbox.Replica {
		return sandboxtest.StartReplica(t, sandbox.ReplicaConfig{
			Replica: name, Addr: addr, MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(), AdminToken: adminToken, JWTSecret: secret,
			Args: []string{"--lock-ttl=2s", "--log-level=warn"},
		})
	}
	replicas := map[string]*sandbox.Replica{}
	plan := attack.Plan{SKUs: []string{"sale-1"}, Rate: 400, Duration: 12 * time.Second, MaxQuantity: 2, Seed: 1}
	for _, name := range []string{"a", "b", "c"} {
		replicas[name] = start(name, "")
		plan.Targets = append(plan.Targets, replicas[name].URL)
	}
	db, err := proof.Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	const stock = 1_000_000
	service := &attack.Service{URL: plan.Targets[0], AdminToken: adminToken, JWTSecret: secret}
	if err := service.PutOnSale(t.Context(), plan.SKUs[0], stock); err != nil {
		t.Fatal(err)
	}

	attacked := make(chan *attack.Result, 1)
	go func() {
		result, err := attack.Run(t.Context(), attack.Config{Plan: plan, JWTSecret: secret})
		if err != nil {
			t.Error(err)
		}
		attacked <- result
	}()
	for _, name := range []string{"a", "b", "c"} {
		time.Sleep(2 * time.Second) // of load, not a wait for an event
		killed := replicas[name]
		killed.Kill()
		replicas[name] = start(name, killed.URL[len("http://"):])
	}
	result := <-attacked
	if result == nil {
		return
	}
	checkServed(t, service, attack.Plan{Targets: plan.Targets, SKUs: []string{"sale-2"}, Rate: 30, Duration: time.Second, MaxQuantity: 1, Seed: 2})
	for _, r := range replicas {
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	records, err := db.Records(t.Context(), plan.SKUs)
	if err != nil {
		t.Fatal(err)
	}
	run := proof.Assess(proof.Setting{Strategy: strategy.Default, Fence: strategy.FenceClaim, Replicas: 3, Expected: strategy.Exact, Stock: stock, Plan: plan}, result, records)
	t.Logf("%d accepted, %d errors, %d ambiguous: %+v", run.Accepted, run.Errors, run.Ambiguous, run.Reasons)
	if run.Oversold > 0 || run.Lost > 0 || run.Unexplained > 0 || run.Duplicated > 0 || len(run.Violations) > 0 {
		t.Errorf("%s: %d oversold, %d lost, %d unexplained, %d duplicated, violations %+v",
			run.Verdict, run.Oversold, run.Lost, run.Unexplained, run.Duplicated, run.Violations)
	}
	if run.Accepted == 0 || run.Ambiguous == 0 {
		t.Errorf("%d orders were accepted and %d got no answer: the replicas were not killed under load", run.Accepted, run.Ambiguous)
	}
}

// checkServed checks that each replica accepts orders.
func checkServed(t *testing.T, service *attack.Service, plan attack.Plan) {
	t.Helper()
	if err := service.PutOnSale(t.Context(), plan.SKUs[0], 1000); err != nil {
		t.Fatal(err)
	}
	result, err := attack.Run(t.Context(), attack.Config{Plan: plan, JWTSecret: service.JWTSecret})
	if err != nil {
		t.Fatal(err)
	}
	accepted := make([]int, len(plan.Targets))
	for i := range result.Answers { // attack.Plan sends to each in turn
		if result.Answers[i].Outcome == attack.Accepted {
			accepted[i%len(accepted)]++
		}
	}
	if slices.Contains(accepted, 0) {
		t.Errorf("the replicas accepted %v of %d orders, want some at each", accepted, len(result.Answers))
	}
}
