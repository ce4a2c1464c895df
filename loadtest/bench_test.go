package main

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/bench"
)

// TestBenchMeasuresPeersSideBySide is a small bench with real servers and replicas, a
// peer of each kind and two loads.
func TestBenchMeasuresPeersSideBySide(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	dir := t.TempDir()
	var out bytes.Buffer
	err := run(t.Context(), []string{
		"bench", "--peers=noop,conditional,conditional-batched,etcd", "--loads=hot,sold-out", "--duration=1s", "--rounds=1", "--workers=64", "--seed=3",
		"--api=" + sandboxtest.Build(t, "api"), "--out=" + dir,
	}, &out, io.Discard)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var r bench.Result
	loadJSON(t, filepath.Join(dir, bench.ResultFile), &r)
	if !r.Proven || r.Seed != 3 || len(r.Runs) != 8 || len(r.Medians) != 8 || r.MySQL["innodb_flush_log_at_trx_commit"] != "1" {
		t.Errorf("proven %v, seed %d, %d runs, %d medians, %v", r.Proven, r.Seed, len(r.Runs), len(r.Medians), r.MySQL)
	}
	for _, run := range r.Runs {
		if run.Offered != run.Accepted+run.SoldOut+run.Errors+run.Ambiguous || run.Accepted == 0 {
			t.Errorf("%s, %s: the counts do not add up to those offered: %+v", run.Strategy, run.Load, run.Counts)
		}
		if run.UnitsSold != int64(run.Accepted) || run.UnitsSold+run.Available != run.Stock {
			t.Errorf("%s, %s: %d accepted, %+v", run.Strategy, run.Load, run.Accepted, run.Findings)
		}
		// The SKUs are drawn at random. A slow machine sends few requests, whose share varies more:
		// it may be off by four standard deviations.
		off := max(0.05, 4*math.Sqrt(0.9*0.1/float64(run.Offered)))
		if refused := float64(run.SoldOut) / float64(run.Offered); run.Load == "sold-out" && math.Abs(refused-0.9) > off {
			t.Errorf("%s: %.2f of the %d requests were refused, want 0.9", run.Strategy, refused, run.Offered)
		}
		if run.Served <= 0 || run.RatioToNoop <= 0 || run.CPU["replicas"] <= 0 || run.RSS["replicas"] <= 0 || run.Latency.P99 < run.Latency.P50 {
			t.Errorf("%s, %s: served %g, ratio %g, CPU %v, RSS %v, latency %+v", run.Strategy, run.Load, run.Served, run.RatioToNoop, run.CPU, run.RSS, run.Latency)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, bench.PageFile)); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "All 8 runs were exact") {
		t.Errorf("the table does not say that all runs were exact:\n%s", out.String())
	}
}
