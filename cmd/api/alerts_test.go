package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/yaml"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

const alertsFolder = "../../deploy/prometheus"

// alertRule is a rule of alerts.yml. promtool checks the rest of it.
type alertRule struct {
	Alert               string
	Labels, Annotations map[string]string
}

// alertCases is the part of a promtool test file that is used here.
type alertCases struct {
	RuleFiles          []string    `json:"rule_files"`
	EvaluationInterval string      `json:"evaluation_interval"`
	Tests              []alertCase `json:"tests"`
}

// alertCase says which alerts some series must make fire, and when. Each alert that
// fires is expected at the first evaluation at which it does.
type alertCase struct {
	Name        string `json:"name"`
	Interval    string `json:"interval"`
	InputSeries []struct {
		Series string `json:"series"`
		Values string `json:"values"`
	} `json:"input_series"`
	Expectations []expectation `json:"alert_rule_test"`
}

// expectation says how an alert fires at a time; without Alerts it must not fire.
type expectation struct {
	At     string `json:"eval_time"`
	Alert  string `json:"alertname"`
	Alerts []struct {
		Labels      map[string]string `json:"exp_labels"`
		Annotations map[string]string `json:"exp_annotations"`
	} `json:"exp_alerts"`
}

// Each alert needs a section that says what to do.
func TestAlertsHaveTheirSections(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^### (\w+)$`).FindAllStringSubmatch(string(page), -1) {
		sections["docs/operations.md#"+strings.ToLower(heading[1])] = true
	}
	for _, rule := range readAlerts(t) {
		if rule.Annotations["summary"] == "" || rule.Labels["severity"] == "" {
			t.Errorf("%s has no summary, or no severity", rule.Alert)
		}
		if runbook := rule.Annotations["runbook"]; runbook != "docs/operations.md#"+strings.ToLower(rule.Alert) || !sections[runbook] {
			t.Errorf("%s has the runbook %q, which is not a section of docs/operations.md", rule.Alert, runbook)
		}
		delete(sections, rule.Annotations["runbook"])
	}
	for section := range sections {
		if strings.Contains(section, "#flashsale") {
			t.Errorf("section %s belongs to no alert", section)
		}
	}
}

// Each rule fires in a case, first at the expected evaluation, and does not fire in
// another. A rule without such cases is untested.
func TestAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	tier.OnlyTestAll(t, "promtool")
	t.Parallel()
	rules := readAlerts(t)
	fires, silent := map[string]bool{}, map[string]bool{}
	names := map[string]bool{}
	cases := readAlertCases(t)
	for i := range cases {
		c := &cases[i]
		if c.Name == "" || names[c.Name] {
			t.Errorf("two cases have the name %q", c.Name)
		}
		names[c.Name] = true
		for _, e := range c.Expectations {
			if len(e.Alerts) > 0 {
				fires[e.Alert] = true
			} else {
				silent[e.Alert] = true
			}
		}
		c.expectSilence(t, rules)
	}
	for _, rule := range rules {
		if !fires[rule.Alert] || !silent[rule.Alert] {
			t.Errorf("%s has a case in which it fires: %t; a case in which it must not: %t; want both", rule.Alert, fires[rule.Alert], silent[rule.Alert])
		}
	}
	alerts, err := filepath.Abs(filepath.Join(alertsFolder, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, map[string]any{"rule_files": []string{alerts}, "evaluation_interval": scrapeInterval.String(), "tests": cases})
}

// expectSilence adds that an alert does not fire at any evaluation before the first at
// which the case expects it. promtool itself checks only the times that a case names.
func (c *alertCase) expectSilence(t *testing.T, rules []alertRule) {
	t.Helper()
	said, first := map[expectationKey]bool{}, map[string]time.Duration{}
	last := time.Duration(0)
	for _, e := range c.Expectations {
		at, err := time.ParseDuration(e.At)
		if err != nil || at%scrapeInterval != 0 || !slices.ContainsFunc(rules, func(r alertRule) bool { return r.Alert == e.Alert }) {
			t.Fatalf("%s: %s is not a rule, or there is no evaluation at %s", c.Name, e.Alert, e.At)
		}
		last = max(last, at)
		said[expectationKey{e.Alert, at}] = true
		if before, ok := first[e.Alert]; len(e.Alerts) > 0 && (!ok || at < before) {
			first[e.Alert] = at
		}
	}
	for _, rule := range rules {
		until, ok := first[rule.Alert]
		if !ok {
			until = last + scrapeInterval
		}
		for at := time.Duration(0); at < until; at += scrapeInterval {
			if !said[expectationKey{rule.Alert, at}] {
				c.Expectations = append(c.Expectations, expectation{At: at.String(), Alert: rule.Alert})
			}
		}
	}
}

// expectationKey is one alert at one time.
type expectationKey struct {
	alert string
	at    time.Duration
}

func readAlerts(t *testing.T) (rules []alertRule) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(alertsFolder, "alerts.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []alertRule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	if len(rules) == 0 {
		t.Fatal("there are no alerts")
	}
	return rules
}

func readAlertCases(t *testing.T) (cases []alertCase) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(alertsFolder, "*_test.yaml"))
	if err != nil || len(names) == 0 {
		t.Fatalf("there are no cases: %v", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var file alertCases
		if err := yaml.UnmarshalStrict(text, &file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if file.EvaluationInterval != scrapeInterval.String() || !slices.Equal(file.RuleFiles, []string{"alerts.yml"}) {
			t.Fatalf("%s evaluates %q every %s, want alerts.yml every %s", name, file.RuleFiles, file.EvaluationInterval, scrapeInterval)
		}
		for _, c := range file.Tests {
			if c.Interval != scrapeInterval.String() {
				t.Fatalf("%s: the samples of %s are %s apart, want %s", name, c.Name, c.Interval, scrapeInterval)
			}
		}
		cases = append(cases, file.Tests...)
	}
	return cases
}

// Cases must use series that replicas have.
func TestAlertCasesUseSeriesOfReplicas(t *testing.T) {
	t.Parallel()
	c := start(t, replicaConfig(newDSN(t), "a", strategy.Default))
	c.putSKU("lamp", 1)
	for _, path := range []string{"/v1/orders", "/v1/orders/no-id/payment"} { // whatever is answered is counted
		if _, _, err := c.call("POST", path, customerToken(t, "ann"), "key", `{"sku":"lamp","quantity":1}`); err != nil {
			t.Fatal(err)
		}
	}
	// A server that answers too late is missing in a scrape.
	var families map[string]*family
	c.await("a scrape with the answers of all servers", func(f map[string]*family) bool {
		families = f
		return f["flashsale_etcd_database_bytes"] != nil && f["flashsale_mysql_durable"] != nil && f["flashsale_stock_units"] != nil
	})
	has := map[string]bool{}
	for _, f := range families {
		for _, s := range f.samples {
			has[shape(s.series)] = true
		}
	}
	for _, test := range readAlertCases(t) {
		for _, in := range test.InputSeries {
			s := parseSeries(in.Series)
			// Prometheus adds up and the labels of the target.
			if s.name == "up" {
				continue
			}
			delete(s.labels, "job")
			delete(s.labels, "instance")
			if !has[shape(s)] {
				t.Errorf("%s: no replica has %s", test.Name, in.Series)
			}
		}
	}
}

// shape is a series without the labels that a case may choose.
func shape(s series) string {
	labels := maps.Clone(s.labels)
	if _, ok := labels["status"]; ok {
		labels["status"] = "any"
	}
	return series{s.name, labels}.String()
}
