package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/strategy"
	"flashsale/loadtest/attack"
)

// attackWithMix pays, cancels and browses under a ramp, and uses all outputs, with the
// database and without it.
func attackWithMix(t *testing.T, d *sandboxDescription) {
	t.Helper()
	for _, dsn := range []string{d.MySQLDSN, ""} {
		dir := t.TempDir()
		lines, junit := filepath.Join(dir, "results.jsonl"), filepath.Join(dir, "junit.xml")
		args := []string{
			"attack", "--target=" + strings.Join(d.Replicas, ","), "--jwt-secret=" + d.JWTSecret, "--admin-token=" + d.AdminToken, "--mysql-dsn=" + dsn,
			"--stages=2s:200,1s:200", "--mix=order=60,pay=15,cancel=10,browse=15", "--stock=100", "--out=" + dir, "--junit=" + junit,
		}
		var out bytes.Buffer
		if err := run(t.Context(), append(args, "--results="+lines, "--results="+filepath.Join(dir, "results.bin"), "--threshold=errors<=100%"), &out, io.Discard); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		r := readProof(t, dir).Runs[0]
		if r.Verdict != strategy.Exact || len(r.Calls) != 4 || r.Returned == 0 || len(r.Stages) != 2 {
			t.Errorf("got %s, calls %+v, %d returned, stages %v\n%s", r.Verdict, r.Calls, r.Returned, r.Stages, out.String())
		}
		all := 0
		for _, c := range r.Calls {
			all += c.Offered
			if c.Served == 0 {
				t.Errorf("got %+v", c)
			}
		}
		if text, err := os.ReadFile(lines); err != nil || bytes.Count(text, []byte("\n")) != all {
			t.Errorf("%v: %d lines for %d requests", err, bytes.Count(text, []byte("\n")), all)
		}

		// A threshold that fails, and a comparison with the file that is replaced.
		out.Reset()
		err := run(t.Context(), append(args, "--seed=0", "--compare="+filepath.Join(dir, "proof.json"), "--threshold=p50<1ns"), &out, io.Discard)
		if !errors.Is(err, errThreshold) {
			t.Errorf("got %v, want %v\n%s", err, errThreshold, out.String())
		}
		for _, want := range []string{"threshold p50<1ns: failed (", "requests of " + attack.Cancel.String(), "Compared with"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the output lacks %q:\n%s", want, out.String())
			}
		}
		if text, err := os.ReadFile(junit); err != nil || !bytes.Contains(text, []byte(`failures="1"`)) {
			t.Errorf("%v:\n%s", err, text)
		}
	}
}
