package soak_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/soak"
)

// TestAMinuteOfRandomCallsFindsNothing soaks three replicas and kills and stops them
// meanwhile. Each run has a new seed.
func TestAMinuteOfRandomCallsFindsNothing(t *testing.T) {
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	dsn, err := stack.MySQL.CreateDatabase(t.Context(), "soak")
	if err != nil {
		t.Fatal(err)
	}
	const window = 2 * time.Second
	fleet := sandboxtest.StartFleet(t, sandbox.ReplicaConfig{
		MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(),
		Args: append([]string{"--lock-ttl=2s", "--payment-window=" + window.String(), "--log-level=warn", "--rate-limit-customer=20/1s"}, sandbox.FewCustomers...),
	}, 3)
	cfg := soak.Config{
		URLs: fleet.URLs(), Replicas: fleet.Replicas, DSN: dsn, AdminToken: fleet.AdminToken, JWTSecret: fleet.JWTSecret, Window: window,
		Duration: time.Minute, Seed: 1 + uint64(rand.Uint32()), Actors: 6, Rushes: 2, OnFault: func(text string) { t.Log(text) },
	}
	result, err := soak.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !result.OK || result.Broken != 0 || result.Seed != cfg.Seed || result.Replicas != 3 {
		t.Errorf("got %+v", result)
	}
	if result.Kills+result.Pauses == 0 || result.Orders == 0 {
		t.Errorf("got %d kills, %d stops and %d orders, want some of each", result.Kills, result.Pauses, result.Orders)
	}
	called := map[string]bool{}
	for _, c := range result.Calls {
		called[c.Call+" "+c.Outcome] = true
	}
	for _, want := range []string{"place 201", "place 409 sold-out", "place again 201", "pay 200", "pay 409 payment-window-over", "cancel 200", "restock 201"} {
		if !called[want] {
			t.Errorf("the calls lack: %s", want)
		}
	}
}
