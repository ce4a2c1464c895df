package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/bench"
)

func TestBadFlagsOfBenchAreNamed(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"bench --peers nope", `unknown peer "nope": one of noop,`},
		{"bench --loads cold", `unknown load "cold"`},
		{"bench --rounds 0", "--rounds must"},
		{"bench --duration 1ms", "--duration must"},
		{"bench --duration 1h", "--duration 1h"},
		{"bench --workers 0", "--workers must"},
		{"bench --rate -1", "--rate must"},
		{"bench --replicas -1", "--replicas must"},
		{"bench --replicas 1000", "--replicas must"},
		{"bench --api /nope", "/nope"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, tt.want)
			}
		})
	}
}

// TestBenchMeasuresPeersSideBySide is a bench in small, with real servers and
// replicas, and everything that one has: a peer of each kind, two loads.
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
	data, err := os.ReadFile(filepath.Join(dir, bench.ResultFile))
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Result
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	if !r.Proven || r.Seed != 3 || len(r.Runs) != 8 || len(r.Medians) != 8 || r.MySQL["innodb_flush_log_at_trx_commit"] != "1" {
		t.Errorf("proven %v, seed %d, %d runs, %d medians, %v", r.Proven, r.Seed, len(r.Runs), len(r.Medians), r.MySQL)
	}
	for _, run := range r.Runs {
		if run.Offered != run.Accepted+run.SoldOut+run.Errors+run.Ambiguous || run.Accepted == 0 {
			t.Errorf("%s, %s: the counts do not add up: %+v", run.Strategy, run.Load, run.Counts)
		}
		if run.UnitsSold != int64(run.Accepted) || run.UnitsSold+run.Available != run.Stock {
			t.Errorf("%s, %s: %d accepted, %+v", run.Strategy, run.Load, run.Accepted, run.Findings)
		}
		if refused := float64(run.SoldOut) / float64(run.Offered); run.Load == "sold-out" && (refused < 0.85 || refused > 0.95) {
			t.Errorf("%s: %.2f of the requests were refused, want 0.9", run.Strategy, refused)
		}
		if run.Served <= 0 || run.RatioToNoop <= 0 || run.CPU["replicas"] <= 0 || run.RSS["replicas"] <= 0 || run.Latency.P99 < run.Latency.P50 {
			t.Errorf("%s, %s: served %g, ratio %g, CPU %v, RSS %v, latency %+v", run.Strategy, run.Load, run.Served, run.RatioToNoop, run.CPU, run.RSS, run.Latency)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, bench.PageFile)); err != nil {
		t.Error(err)
	}
	if !strings.Contains(out.String(), "All 8 runs were exact") {
		t.Errorf("the table does not say so:\n%s", out.String())
	}
}
