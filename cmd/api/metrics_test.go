package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/strategy"
)

// follow opens a stream of a SKU's events.
func (c *client) follow(sku string) io.Closer {
	c.t.Helper()
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.URL+"/v1/skus/"+sku+"/events", http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		c.t.Fatalf("follow %s: %v, %v", sku, response, err)
	}
	return response.Body
}

var documentedRow = regexp.MustCompile("(?m)^\\| `(flashsale_[a-z_]+)` \\| (counter|gauge|histogram) \\|")

// documented returns the metrics in docs/operations.md, with their types.
func documented(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, row := range documentedRow.FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = row[2]
	}
	if len(rows) == 0 {
		t.Fatal("docs/operations.md has no table of metrics")
	}
	return rows
}

// quiet are the metrics that change only after a fault or a time-out, or for a moment.
// Other tests read them, mostly in the packages that count them.
var quiet = []string{
	"flashsale_desk_full_total", "flashsale_desk_waiting_orders", "flashsale_unknown_commits_total", "flashsale_fence_refusals_total",
	"flashsale_mirror_pending_skus", "flashsale_mirror_lost_races_total", "flashsale_mirror_write_failures_total",
	"flashsale_mirror_relists_total", "flashsale_stock_left_out_skus",
	"flashsale_etcd_cas_retries_total", "flashsale_locks_held", "flashsale_orders_expired_total", "flashsale_expiry_lag_seconds",
	"flashsale_expiry_sweeper", "flashsale_etcd_database_bytes", "flashsale_etcd_quota_bytes", "flashsale_etcd_alarms",
	"flashsale_lock_handovers_total", "flashsale_takeovers_total", "flashsale_takeover_seconds", "flashsale_orders_moved_total",
	"flashsale_http_connections_refused_total", "flashsale_forward_links_broken_total", "flashsale_forward_orders_sent_total", "flashsale_forward_orders_received_total",
	"flashsale_forward_messages_total", "flashsale_forward_links", // which of two replicas sells is chance
}

// steady are 1 on a healthy replica. The request in progress is the scrape.
var steady = []string{"flashsale_build_info", "flashsale_ready", "flashsale_stock_read", "flashsale_http_in_flight_requests", "flashsale_mysql_durable"}

// Two replicas sell out a SKU and replay an order, and a grant is revoked. Then all
// documented metrics, and no others, exist and have changed.
func TestDocumentedMetricsExistAndChangeUnderLoad(t *testing.T) {
	t.Parallel()
	dsn := newDSN(t)
	a, b := start(t, replicaConfig(dsn, "a", strategy.Default)), start(t, replicaConfig(dsn, "b", strategy.Default))
	before := a.families()
	a.putSKU("lamp", 600)
	stream := a.follow("lamp")
	defer func() { _ = stream.Close() }()
	var group errgroup.Group
	for worker := range 8 {
		group.Go(func() error {
			for i := range 100 {
				c := []*client{a, b}[(worker+i)%2]
				status, err := c.order("lamp", fmt.Sprint("customer-", worker, "-", i))
				if err != nil || status != http.StatusCreated && status != http.StatusConflict {
					return fmt.Errorf("got %d, %w", status, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if status, err := a.order("lamp", "too late"); err != nil || status != http.StatusConflict {
		t.Fatalf("sold out: got %d, %v", status, err)
	}
	a.putSKU("sofa", 10)
	for range 2 { // the second is a replay
		if status, err := a.order("sofa", "ann"); err != nil || status != http.StatusCreated {
			t.Fatalf("got %d, %v", status, err)
		}
	}
	a.await("a lock that is held", func(f map[string]*family) bool { return total(f["flashsale_locks_held"]) > 0 })
	if status, text, err := a.call("DELETE", "/v1/admin/locks/sofa", adminToken, "", ""); err != nil || status >= 300 {
		t.Fatalf("revoke: %d %s %v", status, text, err)
	}
	a.await("a lost grant", func(f map[string]*family) bool { return total(f["flashsale_lock_losses_total"]) > 0 })
	a.await("the stock of both SKUs", func(f map[string]*family) bool { return total(f["flashsale_stock_units"]) == 610 })
	a.await("an event", func(f map[string]*family) bool { return total(f["flashsale_http_events_sent_total"]) > 0 })
	// A server that answers too late is missing in a scrape.
	var after map[string]*family
	a.await("a scrape with the answers of all servers", func(f map[string]*family) bool {
		after = f
		return f["flashsale_etcd_database_bytes"] != nil && !slices.ContainsFunc(steady, func(name string) bool { return total(f[name]) != 1 })
	})
	if got := total(after["flashsale_mirror_age_seconds"]); math.IsInf(got, 1) || got > answerWithin.Seconds() {
		t.Errorf("the mirror's age is %v s", got)
	}
	both := total(after["flashsale_orders_placed_total"]) + total(b.families()["flashsale_orders_placed_total"])
	if both != 601 {
		t.Errorf("%v orders were counted as placed, want 601", both)
	}

	cas := start(t, replicaConfig(newDSN(t), "c", "etcd-cas"))
	there := cas.families()
	maps.Copy(there, after)
	page := documented(t)
	for name, f := range there {
		if !strings.HasPrefix(name, "flashsale_") {
			if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
				t.Errorf("%s has an unknown prefix", name)
			}
			continue
		}
		if want, got := page[name], f.kind; want != got {
			t.Errorf("%s is a %s; docs/operations.md says %q", name, got, want)
		}
	}
	for name := range page {
		switch {
		case there[name] == nil:
			t.Errorf("docs/operations.md has %s, but the replica does not", name)
		case slices.Contains(steady, name):
			if got := total(there[name]); got != 1 {
				t.Errorf("%s is %v, want 1", name, got)
			}
		case slices.Contains(quiet, name):
		case total(there[name]) == total(before[name]):
			t.Errorf("%s did not change: it is %v", name, total(there[name]))
		}
	}
	for _, pool := range []string{"orders", "mirror"} {
		if !slices.ContainsFunc(there["go_sql_open_connections"].samples, func(s sample) bool { return s.labels["db_name"] == pool }) {
			t.Errorf("the pool %q is not shown", pool)
		}
	}
}

func TestStockMetricsAreLimitedAndTheOtherSKUsCounted(t *testing.T) {
	t.Parallel()
	for _, name := range []string{strategy.Default, "conditional"} {
		cfg := replicaConfig(newDSN(t), "a", name)
		cfg.Args = append(cfg.Args, "--metrics-skus=2")
		c := start(t, cfg)
		for i := range 5 {
			c.putSKU(fmt.Sprint("sku-", i), i)
		}
		c.await(name+": five SKUs", func(f map[string]*family) bool {
			return f["flashsale_stock_units"] != nil && len(f["flashsale_stock_units"].samples) == 2 && total(f["flashsale_stock_left_out_skus"]) == 3
		})
	}
}

// A made-up method is not a label: each would become a permanent series.
func TestMadeUpMethodsAreOneSeries(t *testing.T) {
	t.Parallel()
	c := start(t, replicaConfig(newDSN(t), "a", "conditional"))
	for i := range 10 {
		if _, _, err := c.call(fmt.Sprint("METHOD", i), "/v1/orders", "", "", ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range c.families()["flashsale_http_requests_total"].samples {
		if strings.Contains(s.text, "METHOD") {
			t.Fatalf("there is the series %s", s.text)
		}
	}
}
