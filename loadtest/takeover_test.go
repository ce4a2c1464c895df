package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/takeover"
)

// TestTakeoverEndsNoLaterThanTheLease plays each fault once, with leases of a minute:
// a run goes on until orders flow again, so one in which nobody took over would last
// as long.
func TestTakeoverEndsNoLaterThanTheLease(t *testing.T) {
	dir := t.TempDir()
	const ttl = time.Minute
	var out bytes.Buffer
	err := run(t.Context(), []string{
		"takeover", "--runs=1", "--rate=500", "--lasts=1s", "--lock-ttl=" + ttl.String(), "--api=" + sandboxtest.Build(t, "api"), "--out=" + dir,
	}, &out, io.Discard)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, takeoverFile))
	if err != nil {
		t.Fatal(err)
	}
	var figures takeover.Figures
	if err := json.Unmarshal(text, &figures); err != nil {
		t.Fatal(err)
	}
	if len(figures.Runs) != 3 || !figures.OK {
		t.Errorf("%d runs, OK %v:\n%s", len(figures.Runs), figures.OK, out.String())
	}
	for i, fault := range takeover.FaultNames() {
		r := figures.Runs[i]
		if r.Fault != fault || r.Sold == 0 || r.GapMS <= 0 || r.GapMS >= float64(ttl.Milliseconds())/2 || figures.MedianMS[fault] != figures.MaxMS[fault] {
			t.Errorf("%s: %s, medians %v", fault, &r, figures.MedianMS)
		}
		if !strings.Contains(out.String(), "1/1 "+fault) {
			t.Errorf("%s has no line:\n%s", fault, out.String())
		}
	}
}

func TestBadFlagsOfTakeoverAreNamed(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"takeover --faults bored", `--faults: unknown fault "bored"`},
		{"takeover --runs 0", "--runs must"},
		{"takeover --buyers 0", "--buyers must"},
		{"takeover --rate 0", "--rate must"},
		{"takeover --lasts -1s", "--lasts must"},
		{"takeover --lock-ttl 0s", "--lock-ttl must"},
		{"takeover --api /nope", "/nope"},
		{"takeover --api /bin/true --out /dev/null/x", "/dev/null"},
	} {
		err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.args, err, tt.want)
		}
	}
}
