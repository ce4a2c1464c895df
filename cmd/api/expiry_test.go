package main

import (
	"net/http"
	"testing"

	"flashsale/internal/strategy"
)

// An unpaid unit is on sale again after its payment window, at every replica, also if
// the replica that expired orders has stopped.
func TestUnpaidUnitsAreSoldAgain(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	var replicas []*client
	for _, name := range []string{"a", "b"} {
		cfg := replicaConfig(dsn, name, strategy.Default)
		// Long enough to stop the first replica before ben's window ends. The sweeper's
		// lock must not be lost before.
		cfg.Args = append(cfg.Args, "--payment-window=10s", "--lock-ttl=20s")
		replicas = append(replicas, start(t, cfg))
	}
	sweeping := func(c *client) bool { return total(c.families()["flashsale_expiry_sweeper"]) == 1 }
	expired := func(n float64) func(map[string]*family) bool {
		return func(families map[string]*family) bool {
			return total(families["flashsale_orders_expired_total"]) >= n
		}
	}
	first, second := replicas[0], replicas[1]
	first.await("a sweeper", func(map[string]*family) bool { return sweeping(first) || sweeping(second) })
	if sweeping(second) {
		first, second = second, first
	}
	first.putSKU("lamp", 1)
	buy := func(c *client, customer string) {
		t.Helper()
		if status, err := c.order("lamp", customer); err != nil || status != http.StatusCreated {
			t.Fatalf("%s's order: %d, %v; want 201", customer, status, err)
		}
	}
	buy(second, "ann")
	first.await("the expiry of an order", expired(1))
	buy(second, "ben")
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.await("the expiry of another, by the next sweeper,", expired(1))
	buy(second, "cay")
}
