package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/soak"
)

// TestSoakWritesWhatItFound; that a longer one finds nothing is package soak's.
func TestSoakWritesWhatItFound(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	dir := t.TempDir()
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"soak", "--duration=5s", "--actors=2", "--rushes=1", "--api=" + sandboxtest.Build(t, "api"), "--out=" + dir}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, progress.String(), out.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, soakFile))
	if err != nil {
		t.Fatal(err)
	}
	var result soak.Result
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	if !result.OK || result.Broken != 0 || result.Seed == 0 || result.Replicas != 3 || result.Orders == 0 {
		t.Errorf("%+v", result)
	}
	if !strings.Contains(out.String(), "Every answer was right.") {
		t.Error(out.String())
	}
}
