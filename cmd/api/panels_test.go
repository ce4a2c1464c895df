package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

type dashboard struct {
	UID    string
	Panels []struct {
		ID                int
		Type, Title       string
		GridPos           struct{ X, Y, W, H int }
		Targets           []struct{ Expr string }
		Description, Unit string
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/flashsale.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPanelsHaveTheirPlacesAndMetricsTheirPanels(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.UID != "flashsale" {
		t.Errorf("the dashboard's uid is %q", d.UID)
	}
	ids := map[int]bool{}
	var all strings.Builder
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q has a duplicate id or no position", p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %q has no query or no description", p.Title)
		}
		for _, target := range p.Targets {
			all.WriteString(target.Expr)
		}
	}
	// Each metric must be on a panel.
	quietOnPanels := []string{"flashsale_mirror_transactions_total", "flashsale_mirror_relists_total",
		"flashsale_stock_left_out_skus", "flashsale_stock_read", "flashsale_etcd_cas_retries_total", "flashsale_http_events_sent_total",
		"flashsale_lock_wait_seconds", "flashsale_lock_hold_seconds", "flashsale_takeover_seconds", "flashsale_forward_messages_total"}
	for name := range documented(t) {
		if !strings.Contains(all.String(), name) && !slices.Contains(quietOnPanels, name) {
			t.Errorf("%s is on no panel", name)
		}
	}
}

// Two replicas sell, refuse orders and fail once. Then every query of the dashboard
// returns a value, even if it is 0.
func TestPanelsShowWhatReplicasDo(t *testing.T) {
	tier.OnlyTestAll(t, "promtool")
	t.Parallel()
	dsn := newDSN(t)
	var replicas []*client
	for _, name := range []string{"a", "b"} {
		cfg := replicaConfig(dsn, name, strategy.Default)
		cfg.Args = append(cfg.Args, "--max-streams=1")
		replicas = append(replicas, start(t, cfg))
	}
	a, b := replicas[0], replicas[1]
	a.putSKU("lamp", 1000)
	stream := a.follow("lamp")
	defer func() { _ = stream.Close() }()
	h := history{}
	const scrapes = 4 // a minute
	shown := 0.0      // changes of stock that etcd has shown
	for i := range scrapes {
		for j := range 12 {
			for _, c := range replicas {
				if status, err := c.order("lamp", fmt.Sprint("customer-", i, "-", j)); err != nil || status >= 500 {
					t.Fatalf("got %d, %v", status, err)
				}
			}
		}
		// One stream more than a allows is a server error that a test can cause.
		if status, _, err := a.call("GET", "/v1/skus/lamp/events", "", "", ""); err != nil || status != http.StatusServiceUnavailable {
			t.Fatalf("one stream too many: got %d, %v; want 503", status, err)
		}
		before := shown
		a.await("the stock, and another change in etcd,", func(f map[string]*family) bool {
			shown = total(f["flashsale_mirror_lag_seconds"]) + total(b.families()["flashsale_mirror_lag_seconds"])
			return f["flashsale_stock_units"] != nil && shown > before
		})
		for _, c := range replicas {
			h.scrape(c, i)
		}
	}
	d := readDashboard(t)
	variables := []string{"$__rate_interval", "1m"} // Grafana's, four times the interval
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			variables = append(variables, "$"+v.Name, "("+strings.Join(h.choices(t, v.Definition), "|")+")")
		}
	}
	fill := strings.NewReplacer(variables...)
	var shows []map[string]any
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			shows = append(shows, map[string]any{
				// At least one sample must be a number: only NaN is not at least -Inf.
				"expr":        "group((" + fill.Replace(target.Expr) + ") >= -Inf)",
				"eval_time":   ((scrapes - 1) * scrapeInterval).String(),
				"exp_samples": []map[string]any{{"labels": "{}", "value": 1}},
			})
		}
	}
	promtool(t, map[string]any{"evaluation_interval": scrapeInterval.String(), "tests": []map[string]any{{
		"name": "panels", "interval": scrapeInterval.String(), "input_series": h.input(), "promql_expr_test": shows,
	}}})
}

var labelValues = regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`)

// choices returns the values of a label, which Grafana offers for a variable.
func (h history) choices(t *testing.T, definition string) []string {
	t.Helper()
	asked := labelValues.FindStringSubmatch(definition)
	if asked == nil {
		t.Fatalf("%q does not query the values of a label", definition)
	}
	values := map[string]bool{}
	for text := range h {
		if s := parseSeries(text); s.name == asked[1] {
			values[s.labels[asked[2]]] = true
		}
	}
	if len(values) == 0 || values[""] {
		t.Fatalf("%s offers %v", definition, values)
	}
	return slices.Sorted(maps.Keys(values))
}
