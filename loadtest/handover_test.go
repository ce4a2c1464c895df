package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/handover"
)

// The command creates the folder: a fresh clone has no out.
func TestHandoverWritesItsFigures(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	file := filepath.Join(t.TempDir(), "out", "handover.json")
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"handover", "--strategies=none,process,redis", "--rounds=2", "--out=" + file}, &out, &progress)
	if err != nil {
		t.Fatal(err)
	}
	var figures handover.Figures
	loadJSON(t, file, &figures)
	for _, name := range []string{"process", "redis"} {
		if figures.MedianMS[name] <= 0 || !strings.Contains(out.String(), name) {
			t.Errorf("%s: %v, printed %q", name, figures.MedianMS, out.String())
		}
	}
	if len(figures.MedianMS) != 2 || figures.Rounds != 2 {
		t.Errorf("got figures %+v", figures)
	}
	if !strings.HasPrefix(progress.String(), "Starting the servers ...") {
		t.Errorf("the progress begins with %q", progress.String())
	}
}
