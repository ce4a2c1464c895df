package main

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/faults"
)

// TestTakeoverEndsLongBeforeTheLease makes one run of each fault, with leases of a
// minute. A run goes on until orders flow again: without a take-over it would last as
// long as the lease.
func TestTakeoverEndsLongBeforeTheLease(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	dir := t.TempDir()
	const ttl = time.Minute
	var out bytes.Buffer
	err := run(t.Context(), []string{
		"takeover", "--runs=1", "--rate=500", "--lasts=1s", "--lock-ttl=" + ttl.String(), "--api=" + sandboxtest.Build(t, "api"), "--out=" + dir,
	}, &out, io.Discard)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var figures faults.Figures
	loadJSON(t, filepath.Join(dir, "takeover.json"), &figures)
	if len(figures.Runs) != 3 || !figures.OK {
		t.Errorf("got %d runs, OK %v:\n%s", len(figures.Runs), figures.OK, out.String())
	}
	for i, fault := range faults.Seller.Names() {
		r := figures.Runs[i]
		if r.Fault != fault || r.Sold == 0 || r.GapMS <= 0 || r.GapMS >= float64(ttl.Milliseconds())/2 || figures.MedianMS[fault] != figures.MaxMS[fault] {
			t.Errorf("%s: got %s, medians %v", fault, &r, figures.MedianMS)
		}
		if !strings.Contains(out.String(), "1/1 "+fault) {
			t.Errorf("the output has no line for %s:\n%s", fault, out.String())
		}
	}
}
