package main

import (
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/mutant"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

// TestWallClockThatJumps moves a replica's wall clock an hour ahead and back. Tokens
// expire by the wall clock. The lease runs by the monotonic clock, and orders are dated by
// the database's: the replica sells on in the same tenure.
func TestWallClockThatJumps(t *testing.T) {
	t.Parallel()
	tier.OnlyTestAll(t, "the service built with another standard library")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dsn := newDSN(t)
	cfg := replicaConfig(dsn, "jumping", strategy.Default)
	const ttl = 6 * lockTTL // a replica that stops for a moment keeps its lease
	cfg.Args = append(cfg.Args, "--lock-ttl="+ttl.String())
	if cfg.Program, err = mutant.Build(t.Context(), root, t.TempDir(), &mutant.Clock, "./cmd/api"); err != nil {
		t.Fatal(err)
	}
	c := start(t, cfg)
	c.putSKU("lamp", 10)
	token := sandboxtest.Token(t, secret, map[string]any{"sub": "ann", "exp": time.Now().Add(30 * time.Minute).Unix()})
	orders := func() int {
		t.Helper()
		status, _, err := c.call("GET", "/v1/orders", token, "", "")
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	sell := func(customer string) {
		t.Helper()
		if status, text, err := c.orderBody("lamp", customer); err != nil || status != http.StatusCreated {
			t.Errorf("order of %s: %d %s %v", customer, status, text, err)
		}
	}
	sell("before")
	for _, jump := range []struct {
		signal   syscall.Signal
		customer string
		want     int // for a token that expires in half an hour
	}{
		{syscall.SIGUSR1, "ahead", http.StatusUnauthorized},
		{syscall.SIGUSR2, "back", http.StatusOK},
	} {
		if err := c.Signal(jump.signal); err != nil {
			t.Fatal(err)
		}
		sandboxtest.Eventually(t, "the clock to jump "+jump.customer, func() bool { return orders() == jump.want })
		// Time for a renewal, at which a lease by the wall clock would have ended. It is
		// shorter than a lock is kept without orders.
		time.Sleep(ttl/3 + time.Second)
		sell(jump.customer)
	}
	db := openDB(t, dsn)
	var tenures, spread int
	err = db.SQL.QueryRowContext(t.Context(), "SELECT COUNT(DISTINCT fence), TIMESTAMPDIFF(MINUTE, MIN(created_at), MAX(created_at)) FROM orders").Scan(&tenures, &spread)
	if err != nil {
		t.Fatal(err)
	}
	if tenures != 1 || spread != 0 {
		t.Errorf("the orders were made in %d tenures, over %d minutes; want 1 and 0", tenures, spread)
	}
	auditOK(t, dsn)
}
