package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/soak"
)

// TestSoakWritesWhatItFound checks the command; package soak tests the soak.
func TestSoakWritesWhatItFound(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	dir := t.TempDir()
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"soak", "--duration=5s", "--actors=2", "--rushes=1", "--api=" + sandboxtest.Build(t, "api"), "--out=" + dir}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, progress.String(), out.String())
	}
	var result soak.Result
	loadJSON(t, filepath.Join(dir, soakFile), &result)
	if !result.OK || result.Broken != 0 || result.Seed == 0 || result.Replicas != 3 || result.Orders == 0 {
		t.Errorf("%+v", result)
	}
	if !strings.Contains(out.String(), "Every answer was right.") {
		t.Error(out.String())
	}
}
