package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/template"

	"flashsale/internal/strategy"
)

const alertsFolder = "../../deploy/prometheus"

// alertCases is a file of promtool's tests of rules, as far as it is used here.
type alertCases struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	Tests              []alertCase    `yaml:"tests"`
}

// alertCase is what some series should make fire, and when. An alert that fires in
// it is expected at the first evaluation at which it does.
type alertCase struct {
	Name        string         `yaml:"name"`
	Interval    model.Duration `yaml:"interval"`
	InputSeries []struct {
		Series, Values string
	} `yaml:"input_series"`
	Expectations []struct {
		At     model.Duration `yaml:"eval_time"`
		Alert  string         `yaml:"alertname"`
		Alerts []struct {
			Labels      map[string]string `yaml:"exp_labels"`
			Annotations map[string]string `yaml:"exp_annotations"`
		} `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
}

// An alert that nobody can act on is not worth waking up for.
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
			t.Errorf("%s has the runbook %q, which is no section of the page", rule.Alert, runbook)
		}
		delete(sections, rule.Annotations["runbook"])
	}
	for section := range sections {
		if strings.Contains(section, "#flashsale") {
			t.Errorf("%s is the section of no alert", section)
		}
	}
}

// Each rule fires when it should, at the first evaluation at which it should, and
// is silent when it should be. A rule of which that is not tried is not known to
// wake anybody.
func TestAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	t.Parallel()
	rules := readAlerts(t)
	fires, silent := map[string]bool{}, map[string]bool{}
	names := map[string]bool{}
	for _, c := range readAlertCases(t) {
		if c.Name == "" || names[c.Name] {
			t.Errorf("a case is called %q, as another is", c.Name)
		}
		names[c.Name] = true
		t.Run(c.Name, func(t *testing.T) { c.check(t, rules) })
		for _, e := range c.Expectations {
			if len(e.Alerts) > 0 {
				fires[e.Alert] = true
			} else {
				silent[e.Alert] = true
			}
		}
	}
	for _, rule := range rules {
		if !fires[rule.Alert] || !silent[rule.Alert] {
			t.Errorf("%s fires in a case: %t; is said to be silent in a case: %t; want both", rule.Alert, fires[rule.Alert], silent[rule.Alert])
		}
	}
}

func readAlerts(t *testing.T) (rules []rulefmt.Rule) {
	t.Helper()
	groups, errs := rulefmt.ParseFile(filepath.Join(alertsFolder, "alerts.yml"), false, model.LegacyValidation)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, group := range groups.Groups {
		rules = append(rules, group.Rules...)
	}
	for _, rule := range rules {
		if rule.Alert == "" || rule.KeepFiringFor != 0 {
			t.Fatalf("%+v is more than these tests know to evaluate", rule)
		}
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
		if err := yaml.UnmarshalWithOptions(text, &file, yaml.Strict()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if file.EvaluationInterval != model.Duration(scrapeInterval) || !slices.Equal(file.RuleFiles, []string{"alerts.yml"}) {
			t.Fatalf("%s evaluates %q every %s, want alerts.yml every %s", name, file.RuleFiles, file.EvaluationInterval, scrapeInterval)
		}
		cases = append(cases, file.Tests...)
	}
	return cases
}

// check evaluates all rules from the beginning to the last expectation.
func (c *alertCase) check(t *testing.T, rules []rulefmt.Rule) {
	if c.Interval != model.Duration(scrapeInterval) {
		t.Fatalf("the samples are %s apart, want %s", c.Interval, scrapeInterval)
	}
	h, engine := c.history(t), newEngine()
	last := time.Duration(0)
	for _, e := range c.Expectations {
		last = max(last, time.Duration(e.At))
		if time.Duration(e.At)%scrapeInterval != 0 || !slices.ContainsFunc(rules, func(r rulefmt.Rule) bool { return r.Alert == e.Alert }) {
			t.Fatalf("%s is no rule, or nothing is evaluated at %s", e.Alert, e.At)
		}
	}
	for _, rule := range rules {
		expected := map[time.Duration][]string{} // what fires, as text
		first := last + scrapeInterval
		for _, e := range c.Expectations {
			if e.Alert != rule.Alert {
				continue
			}
			at := time.Duration(e.At)
			expected[at] = []string{}
			for _, a := range e.Alerts {
				first = min(first, at)
				expected[at] = append(expected[at], firing(labels.FromMap(a.Labels), a.Annotations))
			}
			slices.Sort(expected[at])
		}
		since := map[uint64]time.Duration{}
		for at := time.Duration(0); at <= last; at += scrapeInterval {
			got := evaluate(t, h, engine, rule, at, since)
			want, said := expected[at]
			if said && !cmp.Equal(want, got) {
				t.Errorf("%s at %s (-want +got):\n%s", rule.Alert, at, cmp.Diff(want, got))
			}
			if len(got) > 0 && at < first {
				t.Errorf("%s fires at %s, before it is expected: %v", rule.Alert, at, got)
				break
			}
		}
	}
}

// evaluate is one evaluation of a rule: what fires after it, as text. since is from
// when on the expression has been true without a pause, by the labels it gave.
func evaluate(t *testing.T, h *history, engine *promql.Engine, rule rulefmt.Rule, at time.Duration, since map[uint64]time.Duration) []string {
	t.Helper()
	fire := []string{}
	now := map[uint64]bool{}
	for _, sample := range h.ask(t, engine, rule.Expr, at) {
		metric := labels.NewBuilder(sample.Metric).Del(model.MetricNameLabel)
		for name, value := range rule.Labels {
			metric.Set(name, value)
		}
		key := metric.Labels().Hash()
		now[key] = true
		if _, ok := since[key]; !ok {
			since[key] = at
		}
		if at-since[key] < time.Duration(rule.For) {
			continue
		}
		annotations := map[string]string{}
		for name, text := range rule.Annotations {
			data := template.AlertTemplateData(sample.Metric.Map(), nil, "", sample)
			expander := template.NewTemplateExpander(t.Context(), "{{$labels := .Labels}}{{$value := .Value}}"+text, name, data,
				model.Time(at.Milliseconds()), nil, nil, nil)
			expanded, err := expander.Expand()
			if err != nil {
				t.Errorf("%s: %v", rule.Alert, err)
			}
			annotations[name] = expanded
		}
		fire = append(fire, firing(metric.Labels(), annotations))
	}
	maps.DeleteFunc(since, func(key uint64, _ time.Duration) bool { return !now[key] })
	slices.Sort(fire)
	return fire
}

func firing(metric labels.Labels, annotations map[string]string) string {
	return fmt.Sprint(metric, " ", labels.FromMap(annotations))
}

func (c *alertCase) history(t *testing.T) *history {
	t.Helper()
	h := &history{}
	for _, s := range c.InputSeries {
		metric, values, err := parser.ParseSeriesDesc(s.Series + " " + s.Values)
		if err != nil {
			t.Fatalf("%s: %v", s.Series, err)
		}
		for i, v := range values {
			if !v.Omitted {
				h.add(metric, time.Duration(i)*time.Duration(c.Interval), v.Value)
			}
		}
	}
	return h
}

// A case about series that no replica has proves nothing.
func TestAlertCasesAreOfSeriesThatReplicasHave(t *testing.T) {
	t.Parallel()
	c := start(t, replicaConfig(newDSN(t), "a", strategy.Default))
	c.putSKU("lamp", 1)
	for _, path := range []string{"/v1/orders", "/v1/orders/no-id/payment"} { // whatever is answered is counted
		if _, _, err := c.call("POST", path, customerToken(t, "ann"), "key", `{"sku":"lamp","quantity":1}`); err != nil {
			t.Fatal(err)
		}
	}
	var scraped history
	scraped.scrape(c, 0)
	has := map[string]bool{}
	for _, s := range scraped.series {
		has[shape(s.Metric)] = true
	}
	for _, test := range readAlertCases(t) {
		for _, s := range test.InputSeries {
			metric, _, err := parser.ParseSeriesDesc(s.Series)
			if err != nil {
				t.Fatalf("%s: %v", s.Series, err)
			}
			if !has[shape(metric)] {
				t.Errorf("%s: no replica has %s", test.Name, s.Series)
			}
		}
	}
}

// shape is a series without what a case may choose: which targets there are, and
// what they answered.
func shape(metric labels.Labels) string {
	s := labels.NewBuilder(metric)
	for _, name := range []string{"job", "instance", "status"} {
		if metric.Has(name) {
			s.Set(name, "any")
		}
	}
	return s.Labels().String()
}
