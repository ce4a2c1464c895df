package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

// The example beside docs/contract.md is another implementation: the harness knows only what
// it answers.
func TestPythonShopIsJudged(t *testing.T) {
	tier.OnlyTestAll(t, "Python")
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("python3 is not installed: run `apt-get install python3`")
	}
	for _, tt := range []struct {
		guard     string
		processes int
		want      strategy.Verdict
	}{
		{"none", 1, strategy.Oversold},
		{"process", 1, strategy.Exact},
		{"process", 2, strategy.Oversold},
		{"statement", 2, strategy.Exact},
	} {
		t.Run(fmt.Sprintf("%s in %d", tt.guard, tt.processes), func(t *testing.T) {
			t.Parallel()
			database := filepath.Join(t.TempDir(), "shop.db")
			var targets []string
			for range tt.processes {
				targets = append(targets, startPythonShop(t, database, tt.guard))
			}
			dir := t.TempDir()
			var out bytes.Buffer
			err := run(t.Context(), []string{
				"attack", "--target=" + strings.Join(targets, ","), "--jwt-secret=any", "--admin-token=admin",
				"--rate=50", "--duration=1s", "--stock=20", "--until-contended", "--out=" + dir,
			}, &out, &out)
			if err != nil && !errors.Is(err, errNotProven) {
				t.Fatalf("%v\n%s", err, out.String())
			}
			p := readProof(t, dir)
			r := p.Runs[0]
			if r.Verdict != tt.want || p.Partial || len(r.AnsweredBy) != tt.processes || strings.Contains(out.String(), "still be on sale") {
				t.Errorf("got %s, partial %v, answers of %v, want %s\n%s", r.Verdict, p.Partial, r.AnsweredBy, tt.want, out.String())
			}
		})
	}
}

// startPythonShop starts a process of the example, and returns its URL.
func startPythonShop(t *testing.T, database, guard string) (url string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "python3", "../examples/python/shop.py", "--port=0", "--database="+database, "--guard="+guard)
	var said bytes.Buffer
	cmd.Stderr = &said
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // by the signal
		if said.Len() > 0 {
			t.Errorf("the shop wrote:\n%s", said.String())
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}
