package soak_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/soak"
)

// TestAMinuteOfRandomCallsFindsNothing soaks three replicas that are killed and
// stopped meanwhile. Each run has a seed of its own.
func TestAMinuteOfRandomCallsFindsNothing(t *testing.T) {
	stack := sandboxtest.Start(t, sandbox.Config{MySQL: true, EtcdNodes: 1})
	dsn, err := stack.MySQL.CreateDatabase(t.Context(), "soak")
	if err != nil {
		t.Fatal(err)
	}
	cfg := soak.Config{
		DSN: dsn, AdminToken: sandbox.Secret(), JWTSecret: sandbox.Secret(), Window: 2 * time.Second, Duration: time.Minute,
		Seed: 1 + uint64(rand.Uint32()), Actors: 6, Rushes: 2, OnFault: func(text string) { t.Log(text) },
	}
	for i := range 3 {
		r := sandboxtest.StartReplica(t, sandbox.ReplicaConfig{
			Replica: fmt.Sprint("replica-", i+1), MySQLDSN: dsn, EtcdEndpoints: stack.EtcdEndpoints(), AdminToken: cfg.AdminToken, JWTSecret: cfg.JWTSecret,
			Args: []string{"--lock-ttl=2s", "--payment-window=" + cfg.Window.String(), "--log-level=warn", "--rate-limit-customer=20/1s"},
		})
		cfg.Replicas, cfg.URLs = append(cfg.Replicas, r), append(cfg.URLs, r.URL)
	}
	result, err := soak.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !result.OK || result.Broken != 0 || result.Seed != cfg.Seed || result.Replicas != 3 {
		t.Errorf("%+v", result)
	}
	if result.Kills+result.Pauses == 0 || result.Orders == 0 {
		t.Errorf("%d kills, %d stops, %d orders: too little happened to say anything", result.Kills, result.Pauses, result.Orders)
	}
	called := map[string]bool{}
	for _, c := range result.Calls {
		called[c.Call+" "+c.Outcome] = true
	}
	for _, want := range []string{"place 201", "place 409 sold-out", "place again 201", "pay 200", "pay 409 payment-window-over", "cancel 200", "restock 201"} {
		if !called[want] {
			t.Errorf("never: %s", want)
		}
	}
}
