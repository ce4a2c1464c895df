package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
	"flashsale/loadtest/zombie"
)

// TestZombiesWriteTheirFigures of a lock without tokens and of one with; that each
// comes out as it must is package zombie's.
func TestZombiesWriteTheirFigures(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	dir := t.TempDir()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"zombies", "--strategies=process,etcd", "--out=" + dir}, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, zombiesFile))
	if err != nil {
		t.Fatal(err)
	}
	var result zombie.Figures
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
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

func TestBadFlagsOfZombiesAreNamed(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"zombies --strategies nope", `unknown strategy "nope"`},
		{"zombies --strategies conditional", "--strategies names none"},
		{"zombies --strategies redis,redis", `"redis" stands twice`},
		{"zombies --fence high", "--fence"},
		{"zombies --runs 0", "--runs must"},
	} {
		err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.args, err, tt.want)
		}
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
		t.Errorf("something was started: %s", said.String())
	}
}

func TestNothingIsSaidOfAFenceThatDidNotRun(t *testing.T) {
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
