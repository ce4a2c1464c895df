package report

import (
	"encoding/xml"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

func TestJUnitHasEachVerdictAndThreshold(t *testing.T) {
	t.Parallel()
	figure := 12.5
	p := &proof.Proof{Runs: []proof.Run{
		{Strategy: "etcd", Verdict: strategy.Exact, Expected: strategy.Exact, DurationMS: 1500, Started: time.Unix(0, 0), Thresholds: []proof.Checked{
			{Threshold: "p99<50ms", Figure: &figure, Unit: "ms", OK: true}, {Threshold: "p50<1ms", Figure: &figure, Unit: "ms"},
		}},
		{Verdict: strategy.Lost, Expected: strategy.Exact},
	}}
	file := filepath.Join(t.TempDir(), "ci", "junit.xml")
	if err := SaveJUnit(file, p); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<?xml version="1.0" encoding="UTF-8"?>`, `<testsuite name="loadtest etcd" tests="3" failures="1" errors="0" skipped="0" time="1.500" timestamp="1970-01-01T00:00:00">`,
		`<testcase name="p99&lt;50ms" classname="loadtest etcd" time="0.000"></testcase>`,
		`<failure message="p50&lt;1ms: failed (12.5 ms)" type="threshold">`,
		`<testsuite name="loadtest the service" tests="1" failures="1"`, `type="lost"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	var read testSuites
	if err := xml.Unmarshal(text, &read); err != nil || len(read.Suites) != 2 || len(read.Suites[0].Cases) != 3 {
		t.Errorf("read back: %v, %+v", err, read)
	}
}

func TestJUnitHasAnErrorBesideTheProof(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "junit.xml")
	for _, tt := range []struct {
		proof *proof.Proof
		want  int // suites
	}{{nil, 1}, {&proof.Proof{Runs: []proof.Run{{Verdict: strategy.Exact, Expected: strategy.Exact}}}, 2}} {
		if err := SaveJUnitError(file, "attack", tt.proof, errors.New("no <answer>")); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var read testSuites
		if err := xml.Unmarshal(text, &read); err != nil || len(read.Suites) != tt.want {
			t.Fatalf("read back: %v, %+v, want %d suites", err, read, tt.want)
		}
		last := read.Suites[tt.want-1]
		if last.Name != "loadtest attack" || last.Errors != 1 || last.Failures != 0 || last.Cases[0].Failure != nil || last.Cases[0].Error.Message != "no <answer>" {
			t.Errorf("got %+v in\n%s", last, text)
		}
	}
}
