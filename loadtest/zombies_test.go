package main

import (
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
	"flashsale/loadtest/zombie"
)

// TestZombiesWriteTheirFigures runs a lock without tokens and one with tokens. Package
// zombie tests the results.
func TestZombiesWriteTheirFigures(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	dir := t.TempDir()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"zombies", "--strategies=process,etcd", "--out=" + dir}, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var result zombie.Figures
	loadJSON(t, filepath.Join(dir, zombiesFile), &result)
	var got []string
	for _, row := range result.Rows {
		if row.Runs != 1 || !row.OK {
			t.Errorf("%+v", row)
		}
		got = append(got, row.Strategy+" "+string(row.Fence))
	}
	if want := []string{"process off", "etcd off", "etcd write", "etcd claim"}; !slices.Equal(got, want) {
		t.Errorf("rows %q, want %q", got, want)
	}
	if !strings.Contains(out.String(), "\nProven: ") {
		t.Error(out.String())
	}
}

func TestMissingProgramsAreNamedBeforeTheFirstRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var said strings.Builder
	err := run(t.Context(), strings.Fields("zombies --strategies process,redis,zookeeper"), io.Discard, &said)
	for _, want := range []string{"redis: ", "scripts/setup --redis", "zookeeper: ", "scripts/setup --zookeeper"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if said.Len() > 0 {
		t.Errorf("it started something: %s", said.String())
	}
}

func TestAClaimedFenceIsProvenOnlyInComparison(t *testing.T) {
	off, claim := zombie.Summary{Fence: strategy.FenceOff}, zombie.Summary{Fence: strategy.FenceClaim}
	for _, all := range [][]zombie.Summary{{off}, {claim}} {
		if got := proven(all); strings.Contains(got, "claimed") {
			t.Errorf("%v: %s", all, got)
		}
	}
	if got := proven([]zombie.Summary{off, claim}); !strings.Contains(got, "claimed") {
		t.Errorf("both: %s", got)
	}
}
