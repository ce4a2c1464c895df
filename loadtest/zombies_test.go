package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/strategy"
	"flashsale/loadtest/zombie"
)

// Every lock lets a holder that was stopped past its lease write over its
// successor's; a fence that is compared on write still does, amid; a claimed one
// never. TestZombies runs each once.
func TestZombies(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"zombies", "--out=" + dir}, &out, io.Discard); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, zombiesFile))
	if err != nil {
		t.Fatal(err)
	}
	var result struct{ Rows []zombie.Summary }
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	seen := map[string]map[strategy.Fence]zombie.Summary{}
	for _, row := range result.Rows {
		if seen[row.Strategy] == nil {
			seen[row.Strategy] = map[strategy.Fence]zombie.Summary{}
		}
		seen[row.Strategy][row.Fence] = row
	}
	for _, s := range strategy.All() {
		if s.Lock == strategy.NoLock {
			continue
		}
		if off := seen[s.Name][strategy.FenceOff]; off.Runs != 1 || off.After.Oversold == 0 || off.Amid.Oversold == 0 || off.TwoHolders <= 0 {
			t.Errorf("%s without a fence: %+v", s.Name, off)
		}
		if !s.Token {
			continue
		}
		if write := seen[s.Name][strategy.FenceWrite]; write.Runs != 1 || write.After.Oversold != 0 || write.Amid.Oversold == 0 {
			t.Errorf("%s compared on write: %+v", s.Name, write)
		}
		if claim := seen[s.Name][strategy.FenceClaim]; claim.Runs != 1 || claim.After != (zombie.Harm{}) || claim.Amid != (zombie.Harm{}) {
			t.Errorf("%s claimed: %+v", s.Name, claim)
		}
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
