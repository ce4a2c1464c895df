package main

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"flashsale/internal/strategy"
)

// An expression that names what no replica has would never be true, and an alert
// that nobody can act on is not worth waking up for.
func TestAlertsAskForWhatThereIsAndHaveTheirSections(t *testing.T) {
	t.Parallel()
	groups, errs := rulefmt.ParseFile("../../deploy/prometheus/alerts.yml", false, model.LegacyValidation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(page), -1) {
		sections["docs/operations.md#"+strings.ToLower(heading[1])] = true
	}
	var expressions []string
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			expressions = append(expressions, rule.Expr)
			if rule.Annotations["summary"] == "" || rule.Labels["severity"] == "" {
				t.Errorf("%s has no summary, or no severity", rule.Alert)
			}
			if runbook := rule.Annotations["runbook"]; runbook != "docs/operations.md#"+strings.ToLower(rule.Alert) || !sections[runbook] {
				t.Errorf("%s has the runbook %q, which is no section of the page", rule.Alert, runbook)
			}
			delete(sections, rule.Annotations["runbook"])
		}
	}
	for section := range sections {
		if strings.Contains(section, "#flashsale") {
			t.Errorf("%s is the section of no alert", section)
		}
	}
	checkExpressions(t, expressions)
}

func TestPanelsAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/grafana/flashsale.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID    string
		Panels []struct {
			ID                int
			Type, Title       string
			GridPos           struct{ X, Y, W, H int }
			Targets           []struct{ Expr string }
			Description, Unit string
		}
		Templating struct{ List []struct{ Name string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.UID != "flashsale" {
		t.Errorf("the dashboard's uid is %q", dashboard.UID)
	}
	variables := []string{"$__rate_interval", "1m"}
	for _, v := range dashboard.Templating.List {
		variables = append(variables, "$"+v.Name, ".*")
	}
	fill := strings.NewReplacer(variables...)
	ids := map[int]bool{}
	var expressions []string
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q has another's id, or no place", p.Title)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %q asks for nothing, or does not say what it shows", p.Title)
		}
		for _, target := range p.Targets {
			expressions = append(expressions, fill.Replace(target.Expr))
		}
	}
	checkExpressions(t, expressions)
	// The other way round: a metric that is worth counting is worth a panel.
	quietOnPanels := []string{"flashsale_mirror_transactions_total", "flashsale_mirror_stale_total", "flashsale_mirror_behind_total",
		"flashsale_mirror_relists_total", "flashsale_stock_left_out_skus", "flashsale_stock_read", "flashsale_etcd_cas_retries_total",
		"flashsale_http_events_sent_total"}
	all := strings.Join(expressions, " ")
	for name := range documented(t) {
		if !strings.Contains(all, name) && !slices.Contains(quietOnPanels, name) {
			t.Errorf("%s is on no panel", name)
		}
	}
}

// checkExpressions parses expressions, and looks for what they ask in what a
// replica answers after an order.
func checkExpressions(t *testing.T, expressions []string) {
	t.Helper()
	if len(expressions) == 0 {
		t.Fatal("there are no expressions")
	}
	c := start(t, replicaConfig(newDSN(t), "a", strategy.Default))
	c.putSKU("lamp", 1)
	for _, buyer := range []string{"ann", "ben"} { // the second is refused: a problem
		if status, err := c.order("lamp", buyer); err != nil || status >= 500 {
			t.Fatalf("got %d, %v", status, err)
		}
	}
	c.await("the stock", func(f map[string]*dto.MetricFamily) bool { return f["flashsale_stock_units"] != nil })
	families := c.families()
	for _, text := range expressions {
		expr, err := parser.ParseExpr(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok {
				checkSelector(t, families, s)
			}
			return nil
		})
	}
}

// checkSelector looks for a metric and its labels. up, job and instance are
// Prometheus's own.
func checkSelector(t *testing.T, families map[string]*dto.MetricFamily, s *parser.VectorSelector) {
	t.Helper()
	if s.Name == "up" {
		return
	}
	name := s.Name
	if base, bucket := strings.CutSuffix(name, "_bucket"); bucket && families[base].GetType() == dto.MetricType_HISTOGRAM {
		name = base
	}
	family := families[name]
	if family == nil {
		t.Errorf("%s: no replica has %s", s, s.Name)
		return
	}
	labels := map[string]bool{"__name__": true, "job": true, "instance": true, "le": true}
	for _, m := range family.GetMetric() {
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = true
		}
	}
	for _, m := range s.LabelMatchers {
		if !labels[m.Name] {
			t.Errorf("%s: %s has no label %s, only %v", s, s.Name, m.Name, slices.Sorted(maps.Keys(labels)))
		}
	}
}
