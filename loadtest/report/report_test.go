package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

func example() *proof.Proof {
	p := &proof.Proof{Seed: 5, Runs: []proof.Run{
		{
			Strategy: "none", Fence: "off", Replicas: 3, SKUs: 1, Stock: 300, Rate: 2000, AchievedRate: 1500, Saturated: true, PeakUnderWay: 8192,
			Counts:   proof.Counts{Offered: 1300, Accepted: 1234, SoldOut: 60, Errors: 6, Reasons: []proof.Reason{{Status: 503, Slug: "unavailable", Count: 6}}},
			Findings: proof.Findings{UnitsSold: 1234, Oversold: 934, Examples: []string{}},
			Samples:  []proof.Sample{{AtMS: 0, Available: 300}, {AtMS: 50, Available: 290, Sold: 40}},
			Curve:    []proof.Percentile{{Share: 0, MS: 1}, {Share: 0.5, MS: 12}},
			Verdict:  strategy.Oversold, Expected: strategy.Oversold,
		},
		{
			Strategy: "etcd", Fence: "claim", Replicas: 3, SKUs: 1, Stock: 2000, Rate: 2000, AchievedRate: 2000,
			Counts:   proof.Counts{Offered: 10000, Accepted: 2000, SoldOut: 8000},
			Findings: proof.Findings{UnitsSold: 2000, Lost: 1, Examples: []string{"request 7 was promised </script> an order"}},
			Samples:  []proof.Sample{}, Curve: []proof.Percentile{{Share: 0, MS: 1}},
			Verdict: strategy.Lost, Expected: strategy.Exact,
		},
	}}
	p.Settle()
	return p
}

func TestTableShowsRunsNotesAndConclusion(t *testing.T) {
	var out bytes.Buffer
	if err := Table(&out, example()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"none sold 1,234 units of 300: 934 units more than were on sale.",
		"1500 of 2000", "under 95 %: all 8,192 concurrent requests of the harness were waiting for the service",
		"6 x 503 unavailable", "request 7 was promised",
		"Not proven: 1 of 2 runs did not have the expected verdict.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

// TestPageLoadsNoOtherFile also checks that no value can end a script.
func TestPageLoadsNoOtherFile(t *testing.T) {
	var out bytes.Buffer
	if err := Page(&out, example()); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	for _, pattern := range []string{`<link`, `\bsrc=`, `\bhref=`, `@import`, `url\(`, `\bfetch\(`, `XMLHttpRequest`, `ZgotmplZ`} {
		if found := regexp.MustCompile(pattern).FindString(page); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	if opened, closed := strings.Count(page, "<script"), strings.Count(page, "</script"); opened != 3 || closed != 3 {
		t.Errorf("got %d opened and %d closed scripts, want 3", opened, closed)
	}
	for _, want := range []string{"Permission is hereby granted", `"units_sold":1234`, "934 units more than"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestSavedProofHasTheFieldsOfTheContract(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	if err := Save(dir, example()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, ProofFile))
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		Runs   []map[string]any `json:"runs"`
		Seed   *int             `json:"seed"`
		Proven *bool            `json:"proven"`
	}
	if err := json.Unmarshal(data, &saved); err != nil {
		t.Fatal(err)
	}
	if saved.Seed == nil || saved.Proven == nil {
		t.Error("the file lacks seed or proven")
	}
	for _, field := range strings.Fields(`strategy fence replicas skus stock offered accepted sold_out errors ambiguous units_sold
		available oversold lost duplicated unexplained limit_exceeded achieved_rate throughput accepted_per_second latency_ms verdict expected`) {
		for i, run := range saved.Runs {
			if _, ok := run[field]; !ok {
				t.Errorf("run %d lacks %s", i, field)
			}
		}
	}
	for _, field := range []string{"p50", "p95", "p99", "max"} {
		if _, ok := saved.Runs[0]["latency_ms"].(map[string]any)[field]; !ok {
			t.Errorf("latency_ms lacks %s", field)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.new")); err != nil || len(left) > 0 {
		t.Errorf("temporary files remain: %v, %v", left, err)
	}
}

func TestBarsShareOneLineAndStayWithinTheTrack(t *testing.T) {
	list := bars(example())
	for _, b := range list {
		if b.Line != list[0].Line {
			t.Errorf("%s: got line at %v, want %v", b.Name, b.Line, list[0].Line)
		}
		if b.Within+b.Over > 100 {
			t.Errorf("%s ends at %v %%", b.Name, b.Within+b.Over)
		}
		if b.Within > b.Line {
			t.Errorf("%s: %v %% are drawn as within the %v %% on sale", b.Name, b.Within, b.Line)
		}
	}
	if list[0].Over == 0 || list[1].Over != 0 {
		t.Errorf("got oversold %v and %v, want only the first", list[0].Over, list[1].Over)
	}
}
