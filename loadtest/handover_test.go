package main

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/loadtest/handover"
)

// The folder is made, as out is on a fresh clone.
func TestHandoverWritesItsFigures(t *testing.T) {
	tier.OnlyTestAll(t, "Redis")
	file := filepath.Join(t.TempDir(), "out", "handover.json")
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"handover", "--strategies=none,process,redis", "--rounds=2", "--out=" + file}, &out, &progress)
	if err != nil {
		t.Fatal(err)
	}
	var figures handover.Figures
	if err := readFigures(file, &figures); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"process", "redis"} {
		if figures.MedianMS[name] <= 0 || !strings.Contains(out.String(), name) {
			t.Errorf("%s: %v, printed %q", name, figures.MedianMS, out.String())
		}
	}
	if len(figures.MedianMS) != 2 || figures.Rounds != 2 {
		t.Errorf("figures %+v", figures)
	}
	if !strings.HasPrefix(progress.String(), "Starting the servers ...") {
		t.Errorf("it began with %q", progress.String())
	}
}

func TestBadFlagsOfHandoverAreNamed(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"handover --strategies nope", `unknown strategy "nope"`},
		{"handover --strategies none", "--strategies names none that takes a lock"},
		{"handover --rounds 0", "--rounds must"},
		{"handover --strategies process --out /dev/null/x.json", "/dev/null"},
	} {
		err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.args, err, tt.want)
		}
	}
}
